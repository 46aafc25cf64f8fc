// Reads a packet's headers: addresses, ports, and what it is for a connection.
#pragma once

#define EITHER 0    // of a client or of a server
#define TCP_START 1 // begins a connection, also where an old one had the same ports
#define REQUEST 2   // of a client
#define REPLY 3     // of a server
#define ERROR 4     // an ICMP error, about the packet that it quotes
#define DISCOVERY 5 // neighbour discovery, RFC 4861: always passes

#define TCP_FLAGS 13 // offset in the TCP header
#define TCP_SYN 0x02
#define TCP_ACK 0x10

#define IPV6_HEADERS 6 // extension headers of a packet that are read; more are refused

#define HOP_BY_HOP 0
#define ROUTING 43
#define FRAGMENT 44
#define AUTHENTICATION 51
#define DESTINATION 60

#define MORE_FRAGMENTS 0x2000
#define FRAGMENT_OFFSET 0x1fff

struct packet {
    struct connection_key key;
    __u32 upper; // offset of the transport's header
    __u32 kind;
    __u32 fragment; // its number
    __u16 offset;   // in the datagram, in units of 8 bytes; 0 for a first or only fragment
    __u16 more;     // whether further fragments follow
    __u32 hops;     // IPv6's hop limit
};

INLINE int read_ipv4(struct __sk_buff *skb, __u32 at, struct packet *packet)
{
    __u8 header[20];
    __u16 place;

    if (bpf_skb_load_bytes(skb, at, header, sizeof(header)) || header[0] >> 4 != 4 || (header[0] & 0xf) < 5)
        return -1;
    __builtin_memcpy(packet->key.client, header + 12, 4);
    __builtin_memcpy(packet->key.server, header + 16, 4);
    packet->key.protocol = header[9];
    place = header[6] << 8 | header[7];
    packet->offset = place & FRAGMENT_OFFSET;
    packet->more = place & MORE_FRAGMENTS;
    packet->fragment = header[4] << 8 | header[5];
    packet->upper = at + (header[0] & 0xf) * 4;
    return 0;
}

INLINE int read_ipv6(struct __sk_buff *skb, __u32 at, struct packet *packet)
{
    __u8 header[40], next[8];
    __u32 upper = at + sizeof(header);
    __u8 kind;

    if (bpf_skb_load_bytes(skb, at, header, sizeof(header)) || header[0] >> 4 != 6)
        return -1;
    __builtin_memcpy(packet->key.client, header + 8, 16);
    __builtin_memcpy(packet->key.server, header + 24, 16);
    kind = header[6];
    packet->hops = header[7];
    for (int number = 0; number <= IPV6_HEADERS; number++) {
        if (kind != HOP_BY_HOP && kind != ROUTING && kind != FRAGMENT && kind != AUTHENTICATION && kind != DESTINATION) {
            packet->key.protocol = kind;
            packet->upper = upper;
            return 0;
        }
        if (bpf_skb_load_bytes(skb, upper, next, sizeof(next)))
            return -1;
        if (kind == FRAGMENT) {
            packet->offset = (next[2] << 8 | next[3]) >> 3;
            packet->more = next[3] & 1;
            packet->fragment = next[4] << 24 | next[5] << 16 | next[6] << 8 | next[7];
            upper += 8;
        } else {
            upper += kind == AUTHENTICATION ? (next[1] + 2) * 4 : (next[1] + 1) * 8;
        }
        kind = next[0];
        if (packet->offset) { // what follows is in the first fragment
            packet->key.protocol = kind;
            packet->upper = upper;
            return 0;
        }
    }
    return -1;
}

INLINE int read_icmp(struct __sk_buff *skb, struct packet *packet)
{
    __u8 header[8];
    int v6 = packet->key.protocol == IPPROTO_ICMPV6;

    if (bpf_skb_load_bytes(skb, packet->upper, header, sizeof(header)))
        return -1;
    if (header[0] == (v6 ? 128 : 8) || header[0] == (v6 ? 129 : 0)) {
        // Request and reply have one identifier, used as both ports.
        __builtin_memcpy(&packet->key.client_port, header + 4, 2);
        packet->key.server_port = packet->key.client_port;
        packet->kind = header[0] == (v6 ? 128 : 8) ? REQUEST : REPLY;
    } else if (v6 ? header[0] < 128 : header[0] == 3 || header[0] == 11 || header[0] == 12) {
        packet->kind = ERROR;
    } else if (v6 && header[0] >= 133 && header[0] <= 137 && packet->hops == 255) {
        packet->kind = DISCOVERY;
    }
    return 0;
}

// Find the ports of a fragment, which only the first one has; it must have come before.
INLINE int read_fragment(struct packet *packet)
{
    struct fragment_key key = {
        .number = packet->fragment, .family = packet->key.family, .protocol = packet->key.protocol
    };
    struct fragment_ports ports = { packet->key.client_port, packet->key.server_port }, *known;

    __builtin_memcpy(key.source, packet->key.client, 16);
    __builtin_memcpy(key.destination, packet->key.server, 16);
    if (!packet->offset) {
        bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
        return 0;
    }
    known = bpf_map_lookup_elem(&fragments, &key);
    if (!known)
        return -1;
    packet->key.client_port = known->source;
    packet->key.server_port = known->destination;
    return 0;
}

// Read the packet at an offset as one of the client. quoted: by an ICMP error, with 8 bytes of the transport's header.
// Returns 0, or -1 for a packet that can't be read.
INLINE int read_packet(struct __sk_buff *skb, __u32 at, int family, int quoted, struct packet *packet)
{
    __u8 header[14];

    packet->key.family = family;
    if (family == 4 ? read_ipv4(skb, at, packet) : read_ipv6(skb, at, packet))
        return -1;
    if (packet->offset)
        return quoted ? -1 : read_fragment(packet);
    switch (packet->key.protocol) {
    case IPPROTO_TCP:
        if (bpf_skb_load_bytes(skb, packet->upper, header, 4))
            return -1;
        if (!quoted) {
            if (bpf_skb_load_bytes(skb, packet->upper + TCP_FLAGS, header + TCP_FLAGS, 1))
                return -1;
            if ((header[TCP_FLAGS] & (TCP_SYN | TCP_ACK)) == TCP_SYN)
                packet->kind = TCP_START;
        }
        break;
    case IPPROTO_UDP:
    case IPPROTO_SCTP:
        if (bpf_skb_load_bytes(skb, packet->upper, header, 4))
            return -1;
        break;
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        if (packet->key.protocol != (family == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
            return 0;
        if (read_icmp(skb, packet))
            return -1;
        return packet->more && !quoted ? read_fragment(packet) : 0;
    default:
        return 0;
    }
    __builtin_memcpy(&packet->key.client_port, header, 2);
    __builtin_memcpy(&packet->key.server_port, header + 2, 2);
    return packet->more && !quoted ? read_fragment(packet) : 0;
}
