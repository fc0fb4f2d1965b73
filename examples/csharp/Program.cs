// Append events to a brook and print the reply: dotnet run [ENTITY_ID]
// Or compare the session ids made here with known ones: dotnet run --check ../session-ids.json
//
// Needs BROOK_WORKER_SERVICEBUS_CONNECTION_STRING, and a worker that runs.
using System.Text.Json;
using Azure.Messaging.ServiceBus;
using BrookProducer;

const int AttemptsMax = 3;
TimeSpan replyTimeout = TimeSpan.FromSeconds(30);

if (args is ["--check", var file])
{
    return Check(file);
}

string connectionString = Environment.GetEnvironmentVariable("BROOK_WORKER_SERVICEBUS_CONNECTION_STRING")
    ?? throw new InvalidOperationException("set BROOK_WORKER_SERVICEBUS_CONNECTION_STRING");
string commandQueue = Environment.GetEnvironmentVariable("BROOK_WORKER_COMMAND_QUEUE") ?? "brook-commands";
string replyQueue = Environment.GetEnvironmentVariable("BROOK_WORKER_REPLY_QUEUE") ?? "brook-replies";
ulong? buckets = ulong.TryParse(Environment.GetEnvironmentVariable("BROOK_WORKER_SESSION_BUCKETS"), out ulong number)
    ? number
    : null;
string replySession = $"client-{Guid.NewGuid()}";
string entityId = args.Length > 0 ? args[0] : Guid.NewGuid().ToString();

// With an identity instead of a connection string: new ServiceBusClient(fullyQualifiedNamespace, new DefaultAzureCredential()).
await using var client = new ServiceBusClient(connectionString);
await using ServiceBusSender sender = client.CreateSender(commandQueue);
await using ServiceBusSessionReceiver replies = await client.AcceptSessionAsync(replyQueue, replySession);

var command = new AppendCommand(
    CommandId: $"open-{entityId}",
    Brook: new Brook("basket", entityId),
    Expected: "empty",
    Events: [new NewEvent(Guid.NewGuid().ToString(), "BasketOpened", "{}"u8.ToArray(), "application/json")]);

Reply? reply = null;
for (int attempt = 1; reply is null && attempt <= AttemptsMax; attempt++)
{
    // The same command under the same id: sent twice, it takes effect once.
    await sender.SendMessageAsync(MessageFor(command));
    reply = await ReplyTo(command.CommandId);
}

switch (reply)
{
    case { Outcome: "appended" }:
        Console.WriteLine($"appended {reply.FirstPosition} to {reply.LastPosition}");
        return 0;
    case { Outcome: "concurrency-conflict" }:
        // The brook has moved on: look at it, decide anew and send another command, with an id of its own.
        Console.WriteLine($"conflict: the head is at {reply.Actual}");
        return 1;
    case { Outcome: "rejected" }:
        Console.WriteLine($"rejected, the command is wrong: {reply.Message}");
        return 1;
    default:
        Console.WriteLine("no reply; the command may still take effect, and sending it again under its id is safe");
        return 2;
}

ServiceBusMessage MessageFor(AppendCommand each) => new(JsonSerializer.SerializeToUtf8Bytes(each, Json.Options))
{
    ContentType = "application/json",
    MessageId = each.CommandId,
    SessionId = Sessions.IdFor(each.Brook, buckets),
    CorrelationId = each.CorrelationId,
    ReplyTo = replyQueue,
    ReplyToSessionId = replySession,
};

async Task<Reply?> ReplyTo(string commandId)
{
    using var late = new CancellationTokenSource(replyTimeout);
    while (!late.IsCancellationRequested)
    {
        ServiceBusReceivedMessage? message = await replies.ReceiveMessageAsync(TimeSpan.FromSeconds(1));
        if (message is null)
        {
            // The session's lock is ours to renew while nothing comes.
            await replies.RenewSessionLockAsync();
            continue;
        }

        await replies.CompleteMessageAsync(message);
        if (message.CorrelationId == commandId)
        {
            return message.Body.ToObjectFromJson<Reply>(Json.Options);
        }
    }

    return null;
}

static int Check(string file)
{
    Vector[] vectors = JsonSerializer.Deserialize<Vector[]>(File.ReadAllBytes(file), Json.Options) ?? [];
    Vector[] wrong = [.. vectors.Where(each => Sessions.IdFor(each.Brook, each.Buckets) != each.SessionId)];
    foreach (Vector each in wrong)
    {
        Console.Error.WriteLine($"{each}: got {Sessions.IdFor(each.Brook, each.Buckets)}");
    }

    Console.WriteLine($"{vectors.Length - wrong.Length} of {vectors.Length} session ids are right");
    return wrong.Length == 0 && vectors.Length > 0 ? 0 : 1;
}

internal sealed record Vector(Brook Brook, string SessionId, ulong? Buckets = null);
