use super::*;

#[test]
fn the_only_form_of_a_value_is_taken() {
    let good: [&[u8]; 12] = [
        &[5, 0],
        &[1, 1, 0],
        &[1, 1, 0xff],
        &[2, 1, 0],
        &[2, 2, 0, 0x80],
        &[2, 2, 0xff, 0x7f],
        &[3, 1, 0],
        &[3, 2, 3, 0xf8],
        &[6, 3, 0x55, 4, 3],
        &[6, 2, 0x81, 0],
        &[0x30, 5, 0xa0, 3, 2, 1, 2],
        &[0x31, 0],
    ];
    for value in good {
        assert!(is_strict(value), "{value:02x?}");
    }
    let bad: [(&[u8], &str); 23] = [
        (&[], "nothing"),
        (&[5], "no length"),
        (&[5, 0, 5, 0], "two values"),
        (&[5, 0, 0], "a byte too many"),
        (&[4, 2, 1], "content that ends early"),
        (&[0, 0], "end of contents"),
        (&[0x30, 2, 0, 0], "end of contents, inside"),
        (&[0x30, 0x80, 0, 0], "indefinite length"),
        (&[4, 0x81, 1, 0], "a length in more bytes than it takes"),
        (&[4, 0x82, 0, 0x80], "a length with leading zeros"),
        (&[4, 0x85, 0, 0, 0, 0, 1, 0], "a length of five bytes"),
        (&[0x1f, 0x81, 1, 0], "a long tag"),
        (&[0x24, 2, 4, 0], "a string in pieces"),
        (&[0x10, 0], "a sequence that is not constructed"),
        (&[0x30, 1, 5], "a member that ends early"),
        (&[1, 1, 1], "a truth that is neither"),
        (&[2, 0], "a number without digits"),
        (&[2, 2, 0, 1], "a number with leading zeros"),
        (&[2, 2, 0xff, 0x80], "a negative one too"),
        (&[3, 2, 3, 0xff], "unused bits that are set"),
        (&[5, 1, 0], "something in nothing"),
        (&[6, 2, 0x55, 0x84], "an object identifier that ends inside a number"),
        (&[6, 3, 0x55, 0x80, 1], "a number with leading zeros in one"),
    ];
    for (value, what) in bad {
        assert!(!is_strict(value), "{what}: {value:02x?}");
    }
    let deep = (0..40).fold(vec![5, 0], |inner, _| [&[0x30, inner.len() as u8][..], &inner].concat());
    assert!(!is_strict(&deep));
}

#[test]
fn a_name_is_pairs_in_sets_in_a_sequence() {
    let pair = [0x30, 8, 6, 3, 0x55, 4, 3, 0x0c, 1, b'a'];
    let wrapped = |tag: u8, inner: &[u8]| [&[tag, inner.len() as u8][..], inner].concat();
    let name = wrapped(SEQUENCE, &wrapped(SET, &pair));
    assert!(is_name(&name) && is_name(&wrapped(SEQUENCE, &[])));
    assert!(is_name(&wrapped(SEQUENCE, &wrapped(SET, &[pair, pair].concat()))));
    for bad in [
        wrapped(SET, &wrapped(SET, &pair)),
        wrapped(SEQUENCE, &wrapped(SEQUENCE, &pair)),
        wrapped(SEQUENCE, &wrapped(SET, &[])),
        wrapped(SEQUENCE, &pair),
        wrapped(SEQUENCE, &wrapped(SET, &[0x30, 5, 6, 3, 0x55, 4, 3])),
        wrapped(SEQUENCE, &wrapped(SET, &[0x30, 2, 5, 0])),
    ] {
        assert!(!is_name(&bad), "{bad:02x?}");
    }
}
