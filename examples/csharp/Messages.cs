using System.Text.Json;
using System.Text.Json.Serialization;

namespace BrookProducer;

public sealed record Brook(string Name, string EntityId);

/// <summary>One event to append. System.Text.Json writes a byte array as base64, which is what the worker reads.</summary>
public sealed record NewEvent(string EventId, string EventType, byte[] Data, string? DataContentType = null);

/// <summary>Expected is "any", "empty", "exists" or a position (a long).</summary>
public sealed record AppendCommand(
    string CommandId, Brook Brook, object Expected, IReadOnlyList<NewEvent> Events, string? CorrelationId = null);

/// <summary>All three replies in one; Outcome says which it is. Fields that are not known here are ignored.</summary>
public sealed record Reply(
    string Outcome,
    string? CommandId,
    long? FirstPosition = null,
    long? LastPosition = null,
    long? Actual = null,
    string? Code = null,
    string? Message = null);

public static class Json
{
    /// <summary>camelCase, and nothing for what is null: unknown fields in a command are errors.</summary>
    public static readonly JsonSerializerOptions Options = new(JsonSerializerDefaults.Web)
    {
        DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull,
    };
}
