// The maps that user space writes and reads: nfagent/lab/ebpf/codec.py encodes the same structures.
#pragma once

#define INLINE static __always_inline

#define HOST 1  // the identity of the node's own addresses, Cilium's number
#define WORLD 2 // the identity of an address without one of its own, Cilium's number
#define SERVICE 3
#define FIRST_IDENTITY 256 // of Pods
#define EGRESS 0
#define INGRESS 1
#define ANY 0

#define FAMILY_BIT(family) ((family) == 4 ? 1 : 2)

#define SECOND 1000000000ULL
#define LIFETIME (6 * 3600 * SECOND)
#define LIFETIME_DATAGRAM (60 * SECOND)

#define UNKNOWN 0
#define ALLOWED 1
#define DENIED 2

#define REPORT_ALLOWS 1
#define REPORT_DENIES 2

#define DENIED_BY_POLICY 1
#define DENIED_SINCE_CHANGE 2
#define DENIED_SOURCE 3
#define DENIED_UNREADABLE 4
#define DENIED_SERVICE 5

// An IPv4 address is in the first four bytes, zeros behind; `family` is 4 or 6.
struct address_key {
    __u32 prefix; // bits of `family` and `address` that count: 32 and the CIDR's own
    __u32 family;
    __u8 address[16];
};

// Entries allow. The prefix ends before `protocol` for every protocol, before `port` for every port, within it for a
// range of ports.
struct policy_key {
    __u32 prefix;
    __u32 policy;   // the endpoint's: Cilium has a map for each endpoint instead
    __u32 identity; // a peer's identity or its block's; ANY for every peer
    __u8 direction;
    __u8 protocol;
    __u16 port; // network order
};

#define POLICY_BITS 96

struct policy_value {
    __u64 packets;
    __u64 bytes;
};

// A Pod's link. A policy of 0 doesn't isolate.
struct endpoint {
    __u32 egress;
    __u32 ingress;
    __u32 checks_source; // whether packets with other sources than these addresses are dropped
    __u32 families;      // with an address that is known; 1: IPv4, 2: IPv6. Packets of the other one aren't judged
    __u8 address4[16];
    __u8 address6[16];
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
    __u32 endpoint;
    __u32 generation; // of the configuration that it was last decided with
    __u32 mark;       // of packets of the client
    __u8 allowed;
    __u8 from_host;
    __u16 unused;
};

struct settings {
    __u32 generation; // grows with each change that may end a connection
    __u32 reported;   // REPORT_* flags
    __u32 masquerade; // 1: IPv4, 2: IPv6
    __u32 mark;       // of packets to masquerade
};

struct event {
    __u64 time; // nanoseconds of the monotonic clock
    __u32 endpoint;
    __u32 policy;
    __u32 identity;
    __u32 block;
    __u32 bytes;
    __u8 source[16];
    __u8 destination[16];
    __u16 source_port; // network order
    __u16 destination_port;
    __u16 family;
    __u8 protocol;
    __u8 direction;
    __u32 reason; // 0: allowed
};

struct decision {
    __u32 policy;
    __u32 identity;
    __u32 block;
    __u32 reason;
    __u32 allowed;
};

struct fragment_key {
    __u8 source[16];
    __u8 destination[16];
    __u32 number;
    __u16 family;
    __u16 protocol;
};

struct fragment_ports {
    __u16 source;
    __u16 destination;
};

#define ADDRESSES(NAME)                           \
    struct {                                      \
        __uint(type, BPF_MAP_TYPE_LPM_TRIE);      \
        __type(key, struct address_key);          \
        __type(value, __u32);                     \
        __uint(max_entries, 512000);              \
        __uint(map_flags, BPF_F_NO_PREALLOC);     \
    } NAME SEC(".maps")

ADDRESSES(identities);    // address of a Pod or the node, CIDR of Services -> identity
ADDRESSES(blocks);        // CIDR of ipBlocks -> the identity of all ipBlocks that cover it
ADDRESSES(unmasqueraded); // CIDR -> 1

struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __type(key, struct policy_key);
    __type(value, struct policy_value);
    __uint(max_entries, 1000000);
    __uint(map_flags, BPF_F_NO_PREALLOC);
} policies SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __type(key, __u32);
    __type(value, struct endpoint);
    __uint(max_entries, 4096);
} endpoints SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __type(key, struct connection_key);
    __type(value, struct connection_value);
    __uint(max_entries, 131072);
} connections SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __type(key, struct fragment_key);
    __type(value, struct fragment_ports);
    __uint(max_entries, 8192);
} fragments SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, struct settings);
    __uint(max_entries, 1);
} configuration SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __type(key, __u32);
    __type(value, __u64);
    __uint(max_entries, 1);
} lost_events SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_RINGBUF);
    __uint(max_entries, 1 << 20);
} events SEC(".maps");
