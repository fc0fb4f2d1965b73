// The namespace, its queues as `brook-worker provision` makes them, and who may do what on each. No keys are taken.
param namespaceName string
param location string

@allowed(['Standard', 'Premium'])
param sku string
param commandQueue string
param replyQueue string
param workerPrincipalId string
param producerPrincipalIds array
param kedaPrincipalId string

// https://learn.microsoft.com/azure/role-based-access-control/built-in-roles/integration
var receiverRole = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0') // Azure Service Bus Data Receiver
var senderRole = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '69a216fc-b8fb-44d8-bc22-1f3c2cd27a39') // Azure Service Bus Data Sender
var ownerRole = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '090c5cfd-751d-490a-894a-3ce6f1109419') // Azure Service Bus Data Owner

resource namespace 'Microsoft.ServiceBus/namespaces@2024-01-01' = {
  name: namespaceName
  location: location
  sku: {
    name: sku
    tier: sku
  }
  properties: {
    disableLocalAuth: true
    minimumTlsVersion: '1.2'
  }
}

resource commands 'Microsoft.ServiceBus/namespaces/queues@2024-01-01' = {
  parent: namespace
  name: commandQueue
  properties: {
    requiresSession: true
    deadLetteringOnMessageExpiration: true
    lockDuration: 'PT1M'
    maxDeliveryCount: 10
  }
}

resource replies 'Microsoft.ServiceBus/namespaces/queues@2024-01-01' = {
  parent: namespace
  name: replyQueue
  properties: {
    requiresSession: true
    requiresDuplicateDetection: true
    duplicateDetectionHistoryTimeWindow: 'PT10M'
    // Replies that nobody reads would fill the queue, and then no worker could reply.
    defaultMessageTimeToLive: 'P1D'
    // A client whose connection has fallen silent is kept from its replies for as long.
    lockDuration: 'PT30S'
    maxDeliveryCount: 10
  }
}

resource workerReceivesCommands 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: commands
  name: guid(commands.id, workerPrincipalId, receiverRole)
  properties: {
    principalId: workerPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: receiverRole
  }
}

resource workerSendsReplies 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  scope: replies
  name: guid(replies.id, workerPrincipalId, senderRole)
  properties: {
    principalId: workerPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: senderRole
  }
}

resource producersSendCommands 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for principalId in producerPrincipalIds: {
  scope: commands
  name: guid(commands.id, principalId, senderRole)
  properties: {
    principalId: principalId
    roleDefinitionId: senderRole
  }
}]

resource producersReceiveReplies 'Microsoft.Authorization/roleAssignments@2022-04-01' = [for principalId in producerPrincipalIds: {
  scope: replies
  name: guid(replies.id, principalId, receiverRole)
  properties: {
    principalId: principalId
    roleDefinitionId: receiverRole
  }
}]

// To the service, reading the length of a queue is managing it.
resource kedaCountsCommands 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (!empty(kedaPrincipalId)) {
  scope: commands
  name: guid(commands.id, kedaPrincipalId, ownerRole)
  properties: {
    principalId: kedaPrincipalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: ownerRole
  }
}

output hostName string = '${namespace.name}.servicebus.windows.net'
