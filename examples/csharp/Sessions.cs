using System.Globalization;
using System.Security.Cryptography;
using System.Text;

namespace BrookProducer;

/// <summary>The one rule that every producer has to get right: which session a brook's commands travel in.</summary>
public static class Sessions
{
    // What Service Bus takes, in UTF-16 units; a string's length is counted in these.
    private const int SessionIdLengthMax = 128;

    /// <summary>
    /// The session id of a brook. Without buckets: the brook key, or its hash where it is too long. With buckets: one of
    /// so many, by hash; the number must be that of the workers' setting session_buckets.
    /// </summary>
    public static string IdFor(Brook brook, ulong? buckets = null)
    {
        string key = $"{brook.Name}|{brook.EntityId}";
        if (buckets is { } count)
        {
            ulong hash = ulong.Parse(Sha256(key)[..15], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
            return string.Create(CultureInfo.InvariantCulture, $"bucket:{hash % count}/{count}");
        }

        return key.Length <= SessionIdLengthMax ? key : $"sha256:{Sha256(key)}";
    }

    private static string Sha256(string text) =>
        Convert.ToHexString(SHA256.HashData(Encoding.UTF8.GetBytes(text))).ToLowerInvariant();
}
