//! Panics that leave the library are findings. Those that it catches itself, of image decoders that
//! it does not trust, are not, so the process must not end in the panic hook, where `libfuzzer_sys`
//! would end it.

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Replaces the panic hook by one that keeps the message of the last panic.
pub fn remember() {
    let with_backtrace = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    set_hook(Box::new(move |info| {
        let mut message = info.to_string();
        if with_backtrace {
            message = format!("{message}\n{}", Backtrace::force_capture());
        }
        LAST.with(|last| *last.borrow_mut() = message);
    }));
}

/// Runs `body`; a panic that leaves it is printed and ends the process.
pub fn reported(body: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(body)).is_err() {
        eprintln!("PANIC: {}", LAST.with(|last| last.borrow().clone()));
        std::process::abort();
    }
}
