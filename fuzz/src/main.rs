//! Fuzzing of everything that reads files of other people: one libFuzzer binary for all targets.
//!
//! `FUZZ_TARGET` names the target. `scripts/fuzz.sh` builds the binary and runs it;
//! `docs/fuzzing.md` explains how.
#![no_main]

mod allocator;
mod panics;
mod scratch;
mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

use self::targets::Target;

#[global_allocator]
static ALLOCATOR: allocator::Bounded = allocator::Bounded;

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: {
        panics::remember();
        let target = Target::chosen();
        allocator::limit(target.memory);
        TARGET.get_or_init(|| target);
    },
    |data: &[u8]| {
        let target = TARGET.get().expect("libFuzzer initialises before it runs");
        panics::reported(|| (target.run)(data));
    }
);
