//! What two proxies have agreed on, read off the wire: a ServerHello is in the clear.

use std::net::IpAddr;

use culvert_lab::capture::Seen;

/// Of the first handshake with the server's pod that the capture has: cipher suite and key exchange.
pub(crate) fn agreed(seen: &Seen, server: IpAddr) -> Option<String> {
    let of_server = seen.flows.iter().filter(|(flow, _)| flow.from.ip() == server);
    of_server.filter_map(|(_, bytes)| hello(bytes)).next().map(|(suite, group)| {
        let suite = name(SUITES, suite).unwrap_or_else(|| format!("suite {suite:#06x}"));
        let group = name(GROUPS, group).unwrap_or_else(|| format!("group {group:#06x}"));
        format!("{suite}, {group}")
    })
}

const SUITES: &[(u16, &str)] =
    &[(0x1301, "TLS_AES_128_GCM_SHA256"), (0x1302, "TLS_AES_256_GCM_SHA384"), (0x1303, "TLS_CHACHA20_POLY1305_SHA256")];

const GROUPS: &[(u16, &str)] = &[(0x11ec, "X25519MLKEM768"), (0x001d, "X25519"), (0x0017, "P-256"), (0x0018, "P-384")];

fn name(names: &[(u16, &str)], number: u16) -> Option<String> {
    names.iter().find(|(known, _)| *known == number).map(|(_, name)| (*name).to_owned())
}

/// Suite and group of a flow that begins with a ServerHello of TLS 1.3 (RFC 8446 section 4.1.3).
fn hello(flow: &[u8]) -> Option<(u16, u16)> {
    let [22, 3, 3, _, _, 2, _, _, _, 3, 3, rest @ ..] = flow else { return None };
    let session = usize::from(*rest.get(32)?);
    let rest = rest.get(33 + session..)?;
    let suite = u16::from_be_bytes([*rest.first()?, *rest.get(1)?]);
    let mut extensions = rest.get(5..)?;
    loop {
        let [kind, more, high, low, body @ ..] = extensions else { return None };
        if (*kind, *more) == (0, 51) {
            return Some((suite, u16::from_be_bytes([*body.first()?, *body.get(1)?])));
        }
        extensions = body.get(usize::from(u16::from_be_bytes([*high, *low]))..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suite_and_group_are_read_from_a_server_hello() {
        let mut flow = vec![22, 3, 3, 0, 90, 2, 0, 0, 86, 3, 3];
        flow.extend([7; 32]);
        flow.extend([2, 9, 9, 0x13, 0x02, 0, 0, 14]);
        flow.extend([0, 43, 0, 2, 3, 4]);
        flow.extend([0, 51, 0, 4, 0x11, 0xec, 0, 0]);
        assert_eq!(hello(&flow), Some((0x1302, 0x11ec)));
        assert_eq!(name(SUITES, 0x1302).as_deref(), Some("TLS_AES_256_GCM_SHA384"));
        for length in 0..flow.len() - 3 {
            assert_eq!(hello(&flow[..length]), None, "cut at {length}");
        }
        flow[5] = 1;
        assert_eq!(hello(&flow), None, "a client's");
    }
}
