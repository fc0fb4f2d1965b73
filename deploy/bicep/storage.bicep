// The storage account, the containers of leases and of claims, and who may do what in each. No keys are taken.
@minLength(3)
@maxLength(24)
param accountName string
param location string
param sku string
param leaseContainer string
param claimContainer string
param workerPrincipalId string
param producerPrincipalIds array

// https://learn.microsoft.com/azure/role-based-access-control/built-in-roles/storage
var contributorRole = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', 'ba92f5b4-2d11-453d-a403-e96b0029c9fe') // Storage Blob Data Contributor

var claimsName = empty(claimContainer) ? 'brook-claims' : claimContainer

resource account 'Microsoft.Storage/storageAccounts@2023-05-01' = {
  name: accountName
  location: location
  kind: 'StorageV2'
  sku: {
    name: sku
  }
  properties: {
    allowBlobPublicAccess: false
    allowSharedKeyAccess: false
    minimumTlsVersion: 'TLS1_2'
    supportsHttpsTrafficOnly: true
  }
}

resource blobs 'Microsoft.Storage/storageAccounts/blobServices@2023-05-01' = {
  parent: account
  name: 'default'
}

resource leases 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = {
  parent: blobs
  name: leaseContainer
  properties: {
    publicAccess: 'None'
  }
}

resource claims 'Microsoft.Storage/storageAccounts/blobServices/containers@2023-05-01' = if (!empty(claimContainer)) {
  parent: blobs
  name: claimsName
  properties: {
    publicAccess: 'None'
  }
}

// What nobody needs any more. A session's blob of leases is made anew where it is gone, and is not deleted while it is leased.
resource byAge 'Microsoft.Storage/storageAccounts/managementPolicies@2023-05-01' = {
  parent: account
  name: 'default'
  properties: {
    policy: {
      rules: [
        {
          name: 'leases-by-age'
          enabled: true
          type: 'Lifecycle'
          definition: {
            filters: { blobTypes: ['blockBlob'], prefixMatch: ['${leaseContainer}/'] }
            actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: 30 } } }
          }
        }
        {
          name: 'claims-by-age'
          enabled: true
          type: 'Lifecycle'
          definition: {
            filters: { blobTypes: ['blockBlob'], prefixMatch: ['${claimsName}/'] }
            actions: { baseBlob: { delete: { daysAfterModificationGreaterThan: 14 } } }
          }
        }
      ]
    }
  }
}

resource workerTakesLeases 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: leases
  name: guid(leases.id, workerPrincipalId, contributorRole)
  properties: {
    principalId: workerPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: contributorRole
  }
}

resource workerReadsClaims 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(claimContainer)) {
  scope: claims
  name: guid(claims.id, workerPrincipalId, contributorRole)
  properties: {
    principalId: workerPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: contributorRole
  }
}

resource producersWriteClaims 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for principalId in (empty(claimContainer) ? [] : producerPrincipalIds): {
  scope: claims
  name: guid(claims.id, principalId, contributorRole)
  properties: {
    principalId: principalId
    roleDefinitionId: contributorRole
  }
}]

output blobUrl string = 'https://${account.name}.blob.${environment().suffixes.storage}'
