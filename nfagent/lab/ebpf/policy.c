// A Pod's policy at tc, as an eBPF dataplane enforces it: the lab's reference, not part of the agent.
//
// Maps are keyed like Cilium's: address -> identity by longest prefix; identity, port, protocol -> verdict by hash;
// connections in an LRU hash, so that established packets take one look-up. Attached to a Pod's link in the node's
// namespace: packets received there are the Pod's egress, packets sent there its ingress. They go on through the
// kernel's own forwarding, so what this costs is policy alone.
//
// Simpler than the real thing: an ICMP error is matched as any packet of its protocol, later fragments have
// port 0, IPv6 extension headers are not walked, and an entry expires by age, not by its TCP state.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define INLINE static __always_inline

#define WORLD 2 // the identity of an address without one of its own, Cilium's number
#define EGRESS 0
#define INGRESS 1
#define ANY 0

#define TCP_FLAGS 13 // offset in the TCP header
#define TCP_SYN 0x02
#define TCP_ACK 0x10
#define SECOND 1000000000ULL
#define LIFETIME (6 * 3600 * SECOND)
#define LIFETIME_DATAGRAM (60 * SECOND)

// An IPv4 address is in the first four bytes, zeros behind; `family` is 4 or 6.
struct address_key {
    __u32 prefix; // bits of `family` and `address` that count: 32 and the CIDR's own
    __u32 family;
    __u8 address[16];
};

// ANY in identity, or in port and protocol, is a wildcard of the policy.
struct policy_key {
    __u32 endpoint; // interface index of the Pod's link: Cilium has a map for each instead
    __u32 identity;
    __u16 port; // network order
    __u8 protocol;
    __u8 direction;
};

struct policy_value {
    __u64 packets;
    __u64 bytes;
};

// Client, server, and the direction of the policy: a connection of two Pods of a node has two entries.
struct connection_key {
    __u8 client[16];
    __u8 server[16];
    __u16 client_port;
    __u16 server_port;
    __u8 protocol;
    __u8 direction;
    __u16 family;
};

struct connection_value {
    __u64 expires; // nanoseconds of the monotonic clock
    __u64 packets;
    __u64 bytes;
};

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __type(key, struct address_key);
    __type(value, __u32);
    __uint(max_entries, 512000);
    __uint(map_flags, BPF_F_NO_PREALLOC);
} identities SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, struct policy_key);
    __type(value, struct policy_value);
    __uint(max_entries, 65536);
    __uint(map_flags, BPF_F_NO_PREALLOC);
} policies SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __type(key, struct connection_key);
    __type(value, struct connection_value);
    __uint(max_entries, 131072);
} connections SEC(".maps");

// Read a packet as one of the client into a connection key. Returns 0, or -1 for a packet without IP.
INLINE int read_packet(struct __sk_buff *skb, struct connection_key *key, int *starts)
{
    void *data = (void *)(long)skb->data;
    void *end = (void *)(long)skb->data_end;
    struct ethhdr *ethernet = data;
    __u8 *upper;

    *starts = 1;
    if (skb->protocol == bpf_htons(ETH_P_IP)) {
        struct iphdr *ip = data + sizeof(*ethernet);
        if ((void *)(ip + 1) > end)
            return -1;
        __builtin_memcpy(key->client, &ip->saddr, 4);
        __builtin_memcpy(key->server, &ip->daddr, 4);
        key->protocol = ip->protocol;
        key->family = 4;
        if (ip->frag_off & bpf_htons(0x1fff))
            return 0;
        upper = (__u8 *)ip + (ip->ihl & 0xf) * 4;
    } else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
        struct ipv6hdr *ip = data + sizeof(*ethernet);
        if ((void *)(ip + 1) > end)
            return -1;
        __builtin_memcpy(key->client, &ip->saddr, 16);
        __builtin_memcpy(key->server, &ip->daddr, 16);
        key->protocol = ip->nexthdr;
        key->family = 6;
        upper = (__u8 *)(ip + 1);
    } else {
        return -1;
    }
    switch (key->protocol) {
    case IPPROTO_TCP:
        if ((void *)(upper + TCP_FLAGS + 1) > end)
            return 0;
        *starts = (upper[TCP_FLAGS] & (TCP_SYN | TCP_ACK)) == TCP_SYN;
        break;
    case IPPROTO_UDP:
    case IPPROTO_SCTP:
        if ((void *)(upper + 4) > end)
            return 0;
        break;
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        // An echo request and its reply have one identifier, used as both ports.
        if ((void *)(upper + 6) > end)
            return 0;
        key->client_port = key->server_port = *(__u16 *)(upper + 4);
        return 0;
    default:
        return 0;
    }
    key->client_port = *(__u16 *)upper;
    key->server_port = *(__u16 *)(upper + 2);
    return 0;
}

INLINE void turn_round(struct connection_key *to, const struct connection_key *from)
{
    __builtin_memcpy(to->client, from->server, 16);
    __builtin_memcpy(to->server, from->client, 16);
    to->client_port = from->server_port;
    to->server_port = from->client_port;
    to->protocol = from->protocol;
    to->family = from->family;
    to->direction = from->direction == EGRESS ? INGRESS : EGRESS;
}

INLINE __u64 lifetime(const struct connection_key *key)
{
    return key->protocol == IPPROTO_TCP ? LIFETIME : LIFETIME_DATAGRAM;
}

// Return whether the connection has an entry, and count the packet there.
INLINE int established(struct __sk_buff *skb, const struct connection_key *key, __u64 now)
{
    struct connection_value *known = bpf_map_lookup_elem(&connections, key);

    if (!known || known->expires < now)
        return 0;
    known->expires = now + lifetime(key);
    known->packets++;
    known->bytes += skb->len;
    return 1;
}

INLINE __u32 identity_of(__u32 family, const __u8 *address)
{
    struct address_key key = { .prefix = 32 + (family == 4 ? 32 : 128), .family = family };
    __u32 *found;

    __builtin_memcpy(key.address, address, 16);
    found = bpf_map_lookup_elem(&identities, &key);
    return found ? *found : WORLD;
}

INLINE int allows(struct __sk_buff *skb, const struct policy_key *key)
{
    struct policy_value *rule = bpf_map_lookup_elem(&policies, key);

    if (!rule)
        return 0;
    rule->packets++;
    rule->bytes += skb->len;
    return 1;
}

// Look the policy up from its most specific entry to its widest, as Cilium does.
INLINE int allowed(struct __sk_buff *skb, const struct connection_key *packet)
{
    struct policy_key key = { .endpoint = skb->ifindex, .direction = packet->direction };
    __u32 identity = identity_of(packet->family, packet->direction == EGRESS ? packet->server : packet->client);
    int echo = packet->protocol == IPPROTO_ICMP || packet->protocol == IPPROTO_ICMPV6;

    key.identity = identity;
    key.port = echo ? ANY : packet->server_port;
    key.protocol = packet->protocol;
    if (allows(skb, &key))
        return 1;
    key.identity = ANY;
    if (allows(skb, &key))
        return 1;
    key.port = ANY;
    key.protocol = ANY;
    if (allows(skb, &key))
        return 1;
    key.identity = identity;
    return allows(skb, &key);
}

INLINE int neighbour_discovery(struct __sk_buff *skb, const struct connection_key *packet)
{
    __u8 *upper = (void *)(long)skb->data + sizeof(struct ethhdr) + sizeof(struct ipv6hdr);

    if (packet->protocol != IPPROTO_ICMPV6 || (void *)(upper + 1) > (void *)(long)skb->data_end)
        return 0;
    return *upper >= 133 && *upper <= 137; // RFC 4861
}

INLINE int judge(struct __sk_buff *skb, __u8 direction)
{
    struct connection_key packet = { .direction = direction }, reply = {};
    struct connection_value fresh = {};
    __u64 now = bpf_ktime_get_coarse_ns();
    int starts;

    // Headers are in the linear part of nearly all packets; otherwise one pull is enough.
    if ((void *)(long)skb->data + 74 > (void *)(long)skb->data_end)
        bpf_skb_pull_data(skb, skb->len < 74 ? skb->len : 74);
    if (read_packet(skb, &packet, &starts))
        return TC_ACT_OK;
    if (packet.protocol != IPPROTO_TCP || !starts) {
        if (established(skb, &packet, now))
            return TC_ACT_OK;
        turn_round(&reply, &packet);
        if (established(skb, &reply, now))
            return TC_ACT_OK;
        if (neighbour_discovery(skb, &packet))
            return TC_ACT_OK;
    }
    if (!allowed(skb, &packet))
        return TC_ACT_SHOT;
    fresh.expires = now + lifetime(&packet);
    fresh.packets = 1;
    fresh.bytes = skb->len;
    bpf_map_update_elem(&connections, &packet, &fresh, BPF_ANY);
    return TC_ACT_OK;
}

SEC("tc")
int from_pod(struct __sk_buff *skb)
{
    return judge(skb, EGRESS);
}

SEC("tc")
int to_pod(struct __sk_buff *skb)
{
    return judge(skb, INGRESS);
}

char _license[] SEC("license") = "Apache-2.0";
