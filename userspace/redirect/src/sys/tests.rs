use super::{LinkInfo, MapInfo, ProgramInfo};

#[test]
fn prefixes_have_the_kernels_offsets() {
    assert_eq!(std::mem::offset_of!(LinkInfo, target), 16);
    assert_eq!(std::mem::offset_of!(MapInfo, flags), 20);
    assert_eq!(std::mem::offset_of!(ProgramInfo, tag), 8);
}
