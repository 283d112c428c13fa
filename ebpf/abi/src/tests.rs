use core::net::IpAddr;

use crate::{ip, is_v4, words};

#[test]
fn addresses_survive_the_way_to_the_kernel_and_back() {
    for text in ["10.1.2.3", "255.255.255.255", "0.0.0.0", "fd00::1", "fe80::1:2:3:4", "::1"] {
        let address: IpAddr = text.parse().unwrap();
        assert_eq!(ip(words(address)), address);
        assert_eq!(is_v4(&words(address)), address.is_ipv4());
    }
}

#[test]
fn words_lie_in_memory_in_network_byte_order() {
    let address = words("1.2.3.4".parse().unwrap());
    assert_eq!(address[3].to_ne_bytes(), [1, 2, 3, 4]);
    assert_eq!(address[2].to_ne_bytes(), [0, 0, 0xff, 0xff]);
}
