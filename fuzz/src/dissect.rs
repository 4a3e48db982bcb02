//! A parser of whole frames that shares no code with the datapath's: plain slices of plain bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

/// Where the parts of a frame are, and what they say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dissection {
    pub destination_mac: [u8; 6],
    pub source_mac: [u8; 6],
    /// EtherType and control field of each tag, outermost first.
    pub tags: Vec<(u16, u16)>,
    /// Where the IP header begins.
    pub l3: usize,
    /// Where its payload begins, behind options or extension headers.
    pub l4: usize,
    /// Where the IP packet ends: what is behind it is padding.
    pub end: usize,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ttl: u8,
    pub protocol: u8,
    /// Which part of a packet it is.
    pub piece: Piece,
}

/// Takes a frame apart; nothing, where it is not IP, or contradicts itself.
pub fn dissect(frame: &[u8]) -> Option<Dissection> {
    let mac = |at: usize| -> Option<[u8; 6]> { frame.get(at..at + 6)?.try_into().ok() };
    let mut tags = Vec::new();
    let mut l3 = 14;
    let ethertype = loop {
        let ethertype = word(frame, l3 - 2)?;
        if !matches!(ethertype, 0x8100 | 0x88a8) {
            break ethertype;
        }
        tags.push((ethertype, word(frame, l3)?));
        l3 += 4;
    };
    let ip = frame.get(l3..)?;
    let is_v4 = match ethertype {
        0x0800 => true,
        0x86dd => false,
        _ => return None,
    };
    let header = header(ip, is_v4)?;
    let end = l3 + header.total;
    if end > frame.len() || header.length > header.total {
        return None;
    }
    Some(Dissection {
        destination_mac: mac(0)?,
        source_mac: mac(6)?,
        tags,
        l3,
        l4: l3 + header.length,
        end,
        source: header.source,
        destination: header.destination,
        ttl: header.ttl,
        protocol: header.protocol,
        piece: header.piece,
    })
}

/// What an IP header says, with what stands between it and its payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// Its own length, with options or extension headers.
    pub length: usize,
    /// The packet's length, as it says; an ICMP error may quote less.
    pub total: usize,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub ttl: u8,
    pub protocol: u8,
    pub piece: Piece,
}

/// Which part of a packet a fragment is; of a whole one, all is 0.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Piece {
    /// Where it begins, in units of eight bytes.
    pub offset: u16,
    /// Whether others come behind it.
    pub more: bool,
    /// What the fragments of a packet have in common.
    pub identification: u32,
}

impl Piece {
    /// Whether it is a part of a packet only.
    pub fn is_fragment(&self) -> bool {
        self.offset != 0 || self.more
    }
}

/// Reads the header that a packet begins with.
pub fn header(ip: &[u8], is_v4: bool) -> Option<Header> {
    if is_v4 {
        let header: [u8; 20] = ip.get(..20)?.try_into().ok()?;
        let length = usize::from(header[0] & 15) * 4;
        if header[0] >> 4 != 4 || length < 20 {
            return None;
        }
        let address = |at: usize| Ipv4Addr::from([0, 1, 2, 3].map(|byte| header[at + byte]));
        return Some(Header {
            length,
            total: usize::from(word(ip, 2)?),
            source: address(12).into(),
            destination: address(16).into(),
            ttl: header[8],
            protocol: header[9],
            piece: Piece {
                offset: word(ip, 6)? & 0x1fff,
                more: header[6] & 0x20 != 0,
                identification: word(ip, 4)?.into(),
            },
        });
    }
    let header = ip.get(..40)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let address =
        |at: usize| -> Option<Ipv6Addr> { Some(<[u8; 16]>::try_from(ip.get(at..at + 16)?).ok()?.into()) };
    let mut found = Header {
        length: 40,
        total: 40 + usize::from(word(ip, 4)?),
        source: address(8)?.into(),
        destination: address(24)?.into(),
        ttl: header[7],
        protocol: header[6],
        piece: Piece::default(),
    };
    while matches!(found.protocol, 0 | 43 | 44 | 60) {
        let extension = ip.get(found.length..found.length + 8)?;
        found.length += if found.protocol == 44 { 8 } else { (usize::from(extension[1]) + 1) * 8 };
        if found.protocol == 44 {
            let [high, low] = [word(extension, 4)?, word(extension, 6)?].map(u32::from);
            let offset = word(extension, 2)? >> 3;
            found.piece = Piece { offset, more: extension[3] & 1 != 0, identification: high << 16 | low };
        }
        found.protocol = extension[0];
        if found.piece.offset != 0 {
            break;
        }
    }
    Some(found)
}

impl Dissection {
    /// The ports of a TCP or UDP packet or of its first fragment, and where its checksum is and how far it covers;
    /// nothing for others.
    pub fn transport(&self, frame: &[u8]) -> Option<Transport> {
        if self.piece.offset != 0 {
            return None;
        }
        let payload = frame.get(self.l4..self.end)?;
        let (least, header, checksum, length) = match self.protocol {
            TCP => (20, usize::from(payload.get(12)? >> 4) * 4, 16, payload.len()),
            UDP => (8, 8, 6, usize::from(word(payload, 4)?)),
            _ => return None,
        };
        let length = if self.piece.more { length.min(payload.len()) } else { length };
        let whole = least <= header && header <= length && length <= payload.len();
        whole.then_some(Transport {
            source: word(payload, 0)?,
            destination: word(payload, 2)?,
            flags: if self.protocol == TCP { *payload.get(13)? } else { 0 },
            checksum: self.l4 + checksum,
            length,
        })
    }

    /// What the IPv4 header's checksum is wrong by; 0 where it is right, and for IPv6, which has none.
    pub fn header_error(&self, frame: &[u8]) -> u16 {
        match self.source {
            IpAddr::V4(_) => error(sum(&frame[self.l3..self.l3 + usize::from(frame[self.l3] & 15) * 4])),
            IpAddr::V6(_) => 0,
        }
    }

    /// What the TCP or UDP checksum is wrong by; 0 where it is right.
    pub fn transport_error(&self, frame: &[u8], transport: &Transport) -> u16 {
        error(self.pseudo_header(transport.length) + sum(&frame[self.l4..self.l4 + transport.length]))
    }

    /// Whether this is a message of the ICMP of its IP version, with a whole header.
    pub fn is_icmp(&self) -> bool {
        let number = if self.source.is_ipv4() { ICMP } else { ICMPV6 };
        self.protocol == number && self.end - self.l4 >= 8 && !self.piece.is_fragment()
    }

    /// What the checksum of an ICMP message is wrong by; 0 where it is right.
    pub fn icmp_error(&self, frame: &[u8]) -> u16 {
        let pseudo = if self.protocol == ICMPV6 { self.pseudo_header(self.end - self.l4) } else { 0 };
        error(pseudo + sum(&frame[self.l4..self.end]))
    }

    /// The sum of what a checksum covers besides header and payload (RFC 9293 section 3.1, RFC 8200 section 8.1).
    fn pseudo_header(&self, length: usize) -> u64 {
        let addresses = address_sum(&self.source) + address_sum(&self.destination);
        addresses + u64::from(self.protocol) + length as u64
    }
}

/// What a TCP or UDP header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transport {
    pub source: u16,
    pub destination: u16,
    /// TCP's control bits; 0 for UDP.
    pub flags: u8,
    /// Where the checksum is.
    pub checksum: usize,
    /// How many bytes it covers, from the header's first on; of a first fragment, how many of them are there.
    pub length: usize,
}

/// The sum of 16-bit big-endian words (RFC 1071), not folded.
pub fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
}

/// What is left of a sum that includes its checksum: 0 where that is right. 0 and 0xffff are one number here.
pub fn error(sum: u64) -> u16 {
    (sum % 0xffff) as u16
}

/// The 16-bit big-endian word at this offset.
pub fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// The sum of an address' words.
pub fn address_sum(address: &IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => sum(&v4.octets()),
        IpAddr::V6(v6) => sum(&v6.octets()),
    }
}
