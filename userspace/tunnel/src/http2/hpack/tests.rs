//! RFC 7541's own examples, and what peers must not do.

use super::*;

fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Broken> {
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    decoder.read(block, |name, value| fields.push((text(name), text(value))))?;
    Ok(fields)
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn own(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// Appendix C.4: three requests on one connection, with Huffman codes and a table that grows.
#[test]
fn requests_of_one_connection_build_on_each_other() {
    let mut decoder = Decoder::default();
    let first = own(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")]);
    assert_eq!(fields(&mut decoder, &bytes("828684418cf1e3c2e5f23a6ba0ab90f4ff")), Ok(first.clone()));
    let mut second = first;
    second.push(("cache-control".into(), "no-cache".into()));
    assert_eq!(fields(&mut decoder, &bytes("828684be5886a8eb10649cbf")), Ok(second));
    let third = own(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ]);
    assert_eq!(fields(&mut decoder, &bytes("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf")), Ok(third));
}

/// Appendix C.6: answers through a table of 256 bytes, which drops its oldest entries.
#[test]
fn a_small_table_forgets_its_oldest_entries() {
    let mut decoder = Decoder::default();
    let resize = bytes("3fe101");
    let first =
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3";
    let first = fields(&mut decoder, &[resize, bytes(first)].concat()).unwrap();
    assert_eq!(first[0], (":status".into(), "302".into()));
    assert_eq!(first[2].1, "Mon, 21 Oct 2013 20:13:21 GMT");
    let second = fields(&mut decoder, &bytes("4883640effc1c0bf")).unwrap();
    assert_eq!(second[0], (":status".into(), "307".into()));
    assert_eq!(second[1..], first[1..]);
    // The newest is 307; the 302 was dropped for it, so the fifth entry is not there.
    assert_eq!(fields(&mut decoder, &[0x80 | 66]), Err(Broken));
}

#[test]
fn every_byte_survives_the_huffman_code() {
    // Each byte's code by itself, made from the same lengths in another way: by counting.
    let mut order: Vec<u8> = (0..=255).collect();
    order.sort_by_key(|byte| (huffman::LENGTHS[usize::from(*byte)], *byte));
    let (mut code, mut length) = (0_u64, 0_u8);
    for byte in order {
        let wanted = huffman::LENGTHS[usize::from(byte)];
        code <<= wanted - length;
        length = wanted;
        let fill = (8 - u32::from(length) % 8) % 8;
        let packed = (code << fill) | ((1 << fill) - 1);
        let packed = packed.to_be_bytes()[8 - (usize::from(length) + fill as usize) / 8..].to_vec();
        assert_eq!(huffman::unpack(&packed), Ok(vec![byte]), "{byte}");
        code += 1;
    }
}

#[test]
fn broken_blocks_are_refused() {
    let table: [(&str, &[u8]); 12] = [
        ("index 0", &[0x80]),
        ("an entry that is not there", &[0x80 | 62]),
        ("an index beyond numbers", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("an index that is cut", &[0xff]),
        ("a name that is cut", &[0x00, 0x05, b'a']),
        ("a value that is not there", &[0x00, 0x01, b'a']),
        ("a name index that is not there", &[0x0f, 0x60, 0x01, b'a']),
        ("a table that is too large", &[0x3f, 0xe2, 0x1f]),
        ("a resize after a field", &[0x82, 0x20]),
        ("filling of zeros", &[0x00, 0x81, 0x18, 0x00]),
        ("filling of eight bits", &[0x00, 0x82, 0x1f, 0xff, 0x00]),
        ("the end-of-string symbol", &[0x00, 0x84, 0xff, 0xff, 0xff, 0xfc, 0x00]),
    ];
    for (what, block) in table {
        assert_eq!(fields(&mut Decoder::default(), block), Err(Broken), "{what}");
    }
    assert_eq!(fields(&mut Decoder::default(), &[0x3f, 0xe1, 0x1f, 0x82]), Ok(own(&[(":method", "GET")])));
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::default();
    let mut block = vec![0x40, 1, b'a', 1, b'b', 0x40];
    put_string(&mut block, &[b'n'; 2000]);
    put_string(&mut block, &[b'v'; 3000]);
    assert_eq!(fields(&mut decoder, &block).unwrap().len(), 2);
    assert_eq!(fields(&mut decoder, &[0x80 | 62]), Err(Broken), "nothing is left");
}

#[test]
fn what_we_write_is_what_we_read() {
    let mut block = Vec::new();
    put_indexed(&mut block, 8);
    put_known(&mut block, 1, b"10.0.0.1:80");
    put_new(&mut block, b"baggage", &[b'x'; 300]);
    let wanted = own(&[(":status", "200"), (":authority", "10.0.0.1:80"), ("baggage", &"x".repeat(300))]);
    assert_eq!(fields(&mut Decoder::default(), &block), Ok(wanted));
}
