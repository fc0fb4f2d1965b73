// Everything in Azure that a worker needs, and an identity for it with the least rights. docs/deploy.md goes through it.
//   az deployment group create --resource-group RG --template-file deploy/bicep/main.bicep --parameters name=NAME
targetScope = 'resourceGroup'

@description('Begins the names of what is made: letters, digits and hyphens. Names in Azure are unique, so a short hash follows where they must be.')
@minLength(3)
@maxLength(11)
param name string = 'brooks'

@description('Where everything is made: the services and the workers belong into one region.')
param location string = resourceGroup().location

@description('Standard takes messages of 256 KB; Premium of up to 100 MB, and keeps its speed beside other tenants.')
@allowed(['Standard', 'Premium'])
param serviceBusSku string = 'Standard'

@description('Setting command_queue.')
param commandQueue string = 'brook-commands'

@description('Setting reply_queue.')
param replyQueue string = 'brook-replies'

@description('Setting cosmos_database.')
param cosmosDatabase string = 'brooks'

@description('Setting cosmos_container.')
param cosmosContainer string = 'events'

@description('Autoscale: the most request units a second, and ten times the least.')
@minValue(1000)
param cosmosThroughputMax int = 4000

@description('Standard_ZRS outlives the loss of a zone; regions without zones have Standard_LRS.')
@allowed(['Standard_LRS', 'Standard_ZRS'])
param storageSku string = 'Standard_ZRS'

@description('Setting lease_container.')
param leaseContainer string = 'brook-leases'

@description('Setting claim_container. Empty: no claims are taken.')
param claimContainer string = ''

@description('Object ids of the identities of producers: they may send commands and receive replies.')
param producerPrincipalIds array = []

@description('Issuer URL of an AKS cluster with workload identity. Empty: the identity is assigned to what runs the worker.')
param oidcIssuerUrl string = ''

@description('The service account of the worker in that cluster, as deploy/kubernetes has it.')
param serviceAccount string = 'system:serviceaccount:brooks:brook-worker'

@description('Object id of the identity of KEDA, which counts the commands that wait. Empty: it does not scale the workers.')
param kedaPrincipalId string = ''

var suffix = uniqueString(resourceGroup().id, name)
var plainName = toLower(replace(name, '-', '')) // what a storage account may be called

resource identity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: '${name}-worker'
  location: location
}

resource federation 'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2023-01-31' = if (!empty(oidcIssuerUrl)) {
  parent: identity
  name: 'kubernetes'
  properties: {
    issuer: oidcIssuerUrl
    subject: serviceAccount
    audiences: ['api://AzureADTokenExchange']
  }
}

module serviceBus 'servicebus.bicep' = {
  name: 'brooks-servicebus'
  params: {
    namespaceName: '${name}-${suffix}'
    location: location
    sku: serviceBusSku
    commandQueue: commandQueue
    replyQueue: replyQueue
    workerPrincipalId: identity.properties.principalId
    producerPrincipalIds: producerPrincipalIds
    kedaPrincipalId: kedaPrincipalId
  }
}

module cosmos 'cosmos.bicep' = {
  name: 'brooks-cosmos'
  params: {
    accountName: '${toLower(name)}-${suffix}' // no capitals there
    location: location
    databaseName: cosmosDatabase
    containerName: cosmosContainer
    throughputMax: cosmosThroughputMax
    workerPrincipalId: identity.properties.principalId
  }
}

module storage 'storage.bicep' = {
  name: 'brooks-storage'
  params: {
    accountName: '${plainName}${suffix}'
    location: location
    sku: storageSku
    leaseContainer: leaseContainer
    claimContainer: claimContainer
    workerPrincipalId: identity.properties.principalId
    producerPrincipalIds: producerPrincipalIds
  }
}

@description('Setting servicebus_namespace.')
output servicebusNamespace string = serviceBus.outputs.hostName

@description('Setting cosmos_endpoint.')
output cosmosEndpoint string = cosmos.outputs.endpoint

@description('Setting blob_account_url.')
output blobAccountUrl string = storage.outputs.blobUrl

@description('Setting azure_client_id, and the annotation of the service account in Kubernetes.')
output azureClientId string = identity.properties.clientId

@description('To assign the identity to what runs the worker, where that is not Kubernetes.')
output identityId string = identity.id
