//! In a process of its own: what is switched off here stays off.

#[test]
fn a_hardened_process_can_be_neither_dumped_nor_traced() {
    culvert_redirect::forbid_inspection().unwrap();
    assert!(!nix::sys::prctl::get_dumpable().unwrap());
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE).unwrap();
    assert_eq!((soft, hard), (0, 0));
}
