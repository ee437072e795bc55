//! How much a device does together: less where its memory does not suffice.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Error, Result};

/// The most items that go through a network together. Lowered for good when the device runs out of
/// memory.
#[derive(Debug)]
pub(crate) struct Together {
    most: AtomicUsize,
}

impl Together {
    /// Begins with `most`, 1 or more.
    pub(crate) fn at_most(most: usize) -> Self {
        Self {
            most: AtomicUsize::new(most.max(1)),
        }
    }

    /// Calls `attempt` with the most items that it may take, and with half as many as long as the
    /// device's memory does not suffice. `items` names them for a warning.
    ///
    /// # Errors
    /// What `out_of_memory` makes of one item that does not fit by itself; other errors of
    /// `attempt`.
    pub(crate) fn run<T>(
        &self,
        items: &str,
        mut attempt: impl FnMut(usize) -> Result<T>,
        out_of_memory: impl FnOnce() -> Error,
    ) -> Result<T> {
        let mut halvings = 0;
        loop {
            let most = self.most.load(Ordering::Relaxed);
            match attempt(most) {
                Err(error) if error.is_out_of_memory() && most > 1 => {
                    self.most.store(most / 2, Ordering::Relaxed);
                    halvings += 1;
                }
                Err(error) if error.is_out_of_memory() => return Err(out_of_memory()),
                result => {
                    if halvings > 0 {
                        tracing::warn!(
                            "the device ran out of memory; from now on it takes at most {most} {items} at a time"
                        );
                    }
                    return result;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Candle reports it.
    fn out_of_memory() -> Error {
        let message = r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#;
        Error::Tensor(candle_core::Error::Cuda(message.into()).bt())
    }

    fn given_up() -> Error {
        Error::out_of_memory("cuda:0".into(), "decoding".into())
    }

    /// A device with room for so many items, and what it was asked to do.
    fn attempts(together: &Together, room: usize) -> (Vec<usize>, Result<usize>) {
        let mut asked = Vec::new();
        let attempt = |most| {
            asked.push(most);
            if most <= room {
                Ok(most)
            } else {
                Err(out_of_memory())
            }
        };
        let result = together.run("pairs", attempt, given_up);
        (asked, result)
    }

    #[test]
    fn halves_until_it_fits_and_remembers() {
        let together = Together::at_most(16);
        let (asked, result) = attempts(&together, 5);
        assert_eq!((asked, result.unwrap()), (vec![16, 8, 4], 4));
        let (asked, result) = attempts(&together, 5);
        assert_eq!((asked, result.unwrap()), (vec![4], 4));
    }

    #[test]
    fn one_item_that_does_not_fit_is_named() {
        let (asked, result) = attempts(&Together::at_most(4), 0);
        let error = result.unwrap_err();
        assert_eq!(asked, [4, 2, 1]);
        assert!(error.is_out_of_memory());
        assert!(
            error
                .to_string()
                .starts_with("out of memory on cuda:0: decoding"),
            "{error}"
        );
    }

    #[test]
    fn other_errors_are_not_tried_again() {
        let mut asked = 0;
        let result: Result<()> = Together::at_most(4).run(
            "pairs",
            |_| {
                asked += 1;
                Err(Error::Usage("no".into()))
            },
            given_up,
        );
        assert_eq!((asked, result.unwrap_err().to_string()), (1, "no".into()));
    }
}
