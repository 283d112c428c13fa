//! Keeping other processes out of this one's memory.

use std::io;

/// Switches core dumps and ptrace of this process off: private keys are in its memory. Inherited by
/// threads, not by programs that it starts.
pub fn forbid_inspection() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    // No core file even where a dump is taken by a handler that looks at the limit only.
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}
