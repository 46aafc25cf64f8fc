// A Pod's policy at tc, as an eBPF dataplane enforces it: the lab's reference, not part of the agent.
//
// Attached to a Pod's link in the node's namespace: packets received there are the Pod's egress, packets sent there its
// ingress. They go on through the kernel's own forwarding, so what this costs is policy alone. docs/lab-ebpf.md has the
// maps, and where this is simpler than Cilium.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"
#include "packet.h"

// Fill the connection of the packet's reply: the same one, seen from the other end of its direction.
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

INLINE void report(struct __sk_buff *skb, const struct settings *settings, const struct connection_key *packet,
                   const struct decision *made)
{
    struct event *event;

    if (!(settings->reported & (made->allowed ? REPORT_ALLOWS : REPORT_DENIES)))
        return;
    event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
    if (!event) {
        __u32 first = 0;
        __u64 *lost = bpf_map_lookup_elem(&lost_events, &first);
        if (lost)
            __sync_fetch_and_add(lost, 1);
        return;
    }
    event->time = bpf_ktime_get_ns();
    event->endpoint = skb->ifindex;
    event->policy = made->policy;
    event->identity = made->identity;
    event->block = made->block;
    event->bytes = skb->len;
    __builtin_memcpy(event->source, packet->client, 16);
    __builtin_memcpy(event->destination, packet->server, 16);
    event->source_port = packet->client_port;
    event->destination_port = packet->server_port;
    event->family = packet->family;
    event->protocol = packet->protocol;
    event->direction = packet->direction;
    event->reason = made->allowed ? 0 : made->reason;
    bpf_ringbuf_submit(event, 0);
}

INLINE __u32 look_up(void *map, __u32 family, const __u8 *address)
{
    struct address_key key = { .prefix = 32 + (family == 4 ? 32 : 128), .family = family };
    __u32 *found;

    __builtin_memcpy(key.address, address, 16);
    found = bpf_map_lookup_elem(map, &key);
    return found ? *found : 0;
}

INLINE int allows(struct __sk_buff *skb, struct policy_key *key, __u32 identity)
{
    struct policy_value *rule;

    key->identity = identity;
    rule = bpf_map_lookup_elem(&policies, key);
    if (!rule)
        return 0;
    rule->packets++;
    rule->bytes += skb->len;
    return 1;
}

// Decide a new connection, or one again: its peer's identity, its peer's block, then any peer. Entries only allow, so
// that the longest one of each is enough.
INLINE void decide(struct __sk_buff *skb, const struct endpoint *endpoint, const struct connection_key *connection,
                   struct decision *made)
{
    const __u8 *peer = connection->direction == EGRESS ? connection->server : connection->client;
    int echo = connection->protocol == IPPROTO_ICMP || connection->protocol == IPPROTO_ICMPV6;
    struct policy_key key = {
        .prefix = POLICY_BITS,
        .policy = connection->direction == EGRESS ? endpoint->egress : endpoint->ingress,
        .direction = connection->direction,
        .protocol = connection->protocol,
        .port = echo ? ANY : connection->server_port,
    };

    made->policy = key.policy;
    made->reason = DENIED_BY_POLICY;
    if (!key.policy) {
        made->allowed = 1;
        return;
    }
    made->identity = look_up(&identities, connection->family, peer) ?: WORLD;
    if (connection->direction == INGRESS && made->identity == HOST) {
        made->allowed = 1;
        return;
    }
    // Which Pod serves it is decided later, by the kernel's translation.
    if (connection->direction == EGRESS && made->identity == SERVICE) {
        made->reason = DENIED_SERVICE;
        return;
    }
    if (allows(skb, &key, made->identity)) {
        made->allowed = 1;
        return;
    }
    made->block = look_up(&blocks, connection->family, peer);
    made->allowed = (made->block && allows(skb, &key, made->block)) || allows(skb, &key, ANY);
}

INLINE __u64 lifetime(const struct connection_key *key)
{
    return key->protocol == IPPROTO_TCP ? LIFETIME : LIFETIME_DATAGRAM;
}

INLINE int has_ports(const struct connection_key *key)
{
    return key->client_port || key->server_port;
}

// Return the verdict on a packet of a known connection, ALLOWED or DENIED; UNKNOWN for none. After a change that may
// revoke, the connection is decided again. One that isn't allowed any more keeps its entry, so that its packets aren't
// taken for a new connection in the other direction; without ports nothing tells one from the other.
INLINE int established(struct __sk_buff *skb, const struct settings *settings, const struct endpoint *endpoint,
                       const struct connection_key *key, __u64 now, __u32 *mark)
{
    struct connection_value *known = bpf_map_lookup_elem(&connections, key);
    struct decision made = {};

    if (!known || known->expires < now || known->endpoint != skb->ifindex)
        return UNKNOWN;
    if (known->generation != settings->generation) {
        decide(skb, endpoint, key, &made);
        if (known->from_host)
            made.allowed = 1;
        known->generation = settings->generation;
        known->allowed = made.allowed;
        if (!made.allowed) {
            made.reason = DENIED_SINCE_CHANGE;
            report(skb, settings, key, &made);
            if (!has_ports(key)) {
                bpf_map_delete_elem(&connections, key);
                return UNKNOWN;
            }
        }
    }
    known->expires = now + lifetime(key);
    known->packets++;
    known->bytes += skb->len;
    *mark = known->mark;
    return known->allowed ? ALLOWED : DENIED;
}

INLINE int finish(struct __sk_buff *skb, int verdict, __u32 mark)
{
    if (verdict != ALLOWED)
        return TC_ACT_SHOT;
    if (mark)
        skb->mark |= mark;
    return TC_ACT_OK;
}

INLINE int same_address(const __u8 *one, const __u8 *other)
{
    const __u64 *first = (const __u64 *)one, *second = (const __u64 *)other;

    return first[0] == second[0] && first[1] == second[1];
}

// An ICMP error belongs to the connection of the packet that it quotes, which went in the other direction. Its ends and
// routers send errors; another Pod doesn't.
INLINE int related(struct __sk_buff *skb, const struct settings *settings, const struct endpoint *endpoint,
                   const struct packet *error, __u64 now)
{
    struct packet quoted = { .key.direction = error->key.direction == EGRESS ? INGRESS : EGRESS };
    struct connection_key reply = {};
    __u32 mark;
    int verdict;

    if (read_packet(skb, error->upper + 8, error->key.family, 1, &quoted))
        return UNKNOWN;
    if (!same_address(error->key.client, quoted.key.client) && !same_address(error->key.client, quoted.key.server) &&
        look_up(&identities, error->key.family, error->key.client) >= FIRST_IDENTITY)
        return UNKNOWN;
    verdict = established(skb, settings, endpoint, &quoted.key, now, &mark);
    if (verdict != UNKNOWN)
        return verdict;
    turn_round(&reply, &quoted.key);
    return established(skb, settings, endpoint, &reply, now, &mark);
}

INLINE int own_source(const struct endpoint *endpoint, const struct connection_key *packet)
{
    const __u8 *own = packet->family == 4 ? endpoint->address4 : endpoint->address6;

    return !endpoint->checks_source || same_address(packet->client, own);
}

INLINE int judge(struct __sk_buff *skb, __u8 direction)
{
    struct packet packet = { .key.direction = direction };
    struct connection_key reply = {};
    struct connection_value fresh = {}, *before;
    struct decision made = {};
    __u64 now = bpf_ktime_get_coarse_ns();
    __u32 number = skb->ifindex, first = 0, mark = 0;
    struct endpoint *endpoint = bpf_map_lookup_elem(&endpoints, &number);
    struct settings *settings = bpf_map_lookup_elem(&configuration, &first);
    int verdict, isolated, family;

    if (!endpoint || !settings)
        return TC_ACT_OK;
    isolated = (direction == EGRESS ? endpoint->egress : endpoint->ingress) != 0;
    family = skb->protocol == bpf_htons(ETH_P_IP) ? 4 : skb->protocol == bpf_htons(ETH_P_IPV6) ? 6 : 0;
    if (!family || skb->vlan_present)
        return !isolated || (skb->protocol == bpf_htons(ETH_P_ARP) && !skb->vlan_present) ? TC_ACT_OK : TC_ACT_SHOT;
    if (!(endpoint->families & FAMILY_BIT(family)))
        return TC_ACT_OK;
    if (read_packet(skb, sizeof(struct ethhdr), family, 0, &packet)) {
        made.reason = DENIED_UNREADABLE;
        if (isolated)
            report(skb, settings, &packet.key, &made);
        return isolated ? TC_ACT_SHOT : TC_ACT_OK;
    }
    if (packet.kind == DISCOVERY)
        return TC_ACT_OK;
    if (direction == EGRESS && !own_source(endpoint, &packet.key)) {
        made.reason = DENIED_SOURCE;
        report(skb, settings, &packet.key, &made);
        return TC_ACT_SHOT;
    }
    if (packet.kind == ERROR) {
        verdict = related(skb, settings, endpoint, &packet, now);
        if (verdict != UNKNOWN)
            return finish(skb, verdict, 0);
    } else if (packet.kind != TCP_START) {
        if (packet.kind != REPLY) {
            verdict = established(skb, settings, endpoint, &packet.key, now, &mark);
            if (verdict != UNKNOWN)
                return finish(skb, verdict, mark);
        }
        if (packet.kind != REQUEST) {
            turn_round(&reply, &packet.key);
            verdict = established(skb, settings, endpoint, &reply, now, &mark);
            if (verdict != UNKNOWN)
                return finish(skb, verdict, 0);
        }
    }
    decide(skb, endpoint, &packet.key, &made);
    // A packet that came in by no interface is the node's own: a node always reaches its Pods.
    if (direction == INGRESS && !skb->ingress_ifindex) {
        made.allowed = 1;
        fresh.from_host = 1;
    }
    before = bpf_map_lookup_elem(&connections, &packet.key);
    if (!before || before->expires < now || !before->allowed || !made.allowed)
        report(skb, settings, &packet.key, &made);
    if (!made.allowed)
        return TC_ACT_SHOT;
    if (packet.kind == ERROR)
        return TC_ACT_OK;
    if (direction == EGRESS && settings->masquerade & FAMILY_BIT(family) &&
        !look_up(&unmasqueraded, family, packet.key.server))
        fresh.mark = settings->mark;
    fresh.expires = now + lifetime(&packet.key);
    fresh.packets = 1;
    fresh.bytes = skb->len;
    fresh.endpoint = skb->ifindex;
    fresh.generation = settings->generation;
    fresh.allowed = 1;
    bpf_map_update_elem(&connections, &packet.key, &fresh, BPF_ANY);
    return finish(skb, ALLOWED, fresh.mark);
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
