//! The digits of float32 products on CUDA.
//!
//! Candle has one setting for the whole process, which it reads as it launches a product. Here it
//! is set for one product at a time, so that networks that need all digits and networks that do not
//! may run on several threads at once.

use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result};

use crate::runtime::Precision;

/// How a layer multiplies float32 numbers on CUDA; other products do not heed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FloatProducts {
    /// As the process has it: with all digits, unless the application allowed Candle fewer.
    #[default]
    Default,
    /// As TF32: 10 bits of mantissa, sums in float32.
    Tf32,
}

impl FloatProducts {
    /// Those of a network of this precision.
    pub fn of(precision: Precision) -> Self {
        if precision == Precision::Tf32 {
            Self::Tf32
        } else {
            Self::Default
        }
    }

    /// Whether a product of numbers of `dtype` on `device` is one of TF32.
    pub(crate) fn is_tf32(self, device: &Device, dtype: DType) -> Result<bool> {
        let reduced = || Ok(candle_core::cuda::gemm_reduced_precision_f32());
        Ok(device.is_cuda() && dtype == DType::F32 && self.launch(device, dtype, reduced)?)
    }

    /// Launches a product of numbers of `dtype` on `device`.
    pub fn launch<T>(
        self,
        device: &Device,
        dtype: DType,
        product: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if device.is_cuda() && dtype == DType::F32 {
            CANDLE.during(self, product)
        } else {
            product()
        }
    }
}

static CANDLE: Setting = Setting {
    turn: Mutex::new(()),
    read: candle_core::cuda::gemm_reduced_precision_f32,
    write: candle_core::cuda::set_gemm_reduced_precision_f32,
};

/// A setting of the whole process and whose turn it is.
struct Setting {
    turn: Mutex<()>,
    read: fn() -> bool,
    write: fn(bool),
}

impl Setting {
    /// Runs `work` under the setting that `products` want, which is as before afterwards, in a
    /// panic too.
    fn during<T>(&self, products: FloatProducts, work: impl FnOnce() -> T) -> T {
        struct Restore<'a>(&'a Setting, bool);
        impl Drop for Restore<'_> {
            fn drop(&mut self) {
                (self.0.write)(self.1);
            }
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let before = (self.read)();
        // Dropped before the turn is over.
        let _restore = Restore(self, before);
        (self.write)(before || products == FloatProducts::Tf32);
        work()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    /// A setting like Candle's, for one test.
    macro_rules! setting {
        ($flag:ident) => {{
            static $flag: AtomicBool = AtomicBool::new(false);
            Setting {
                turn: Mutex::new(()),
                read: || $flag.load(Ordering::SeqCst),
                write: |value| $flag.store(value, Ordering::SeqCst),
            }
        }};
    }

    #[test]
    fn products_of_two_networks_at_once_each_have_their_own_digits() {
        let setting = setting!(AT_ONCE);
        thread::scope(|scope| {
            for products in [
                FloatProducts::Default,
                FloatProducts::Tf32,
                FloatProducts::Default,
                FloatProducts::Tf32,
            ] {
                let setting = &setting;
                scope.spawn(move || {
                    for _ in 0..2000 {
                        let seen = setting.during(products, || {
                            thread::yield_now();
                            (setting.read)()
                        });
                        assert_eq!(seen, products == FloatProducts::Tf32);
                    }
                });
            }
        });
        assert!(!(setting.read)());
    }

    #[test]
    fn a_product_that_panics_leaves_the_setting_as_it_was() {
        let setting = setting!(PANICKING);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            setting.during(FloatProducts::Tf32, || panic!("in a product"))
        }));
        assert!(panicked.is_err() && !(setting.read)());
        assert!(!setting.during(FloatProducts::Default, || (setting.read)()));
    }

    #[test]
    fn what_the_application_allowed_stays_allowed() {
        let setting = setting!(ALLOWED);
        (setting.write)(true);
        assert!(setting.during(FloatProducts::Default, || (setting.read)()));
        assert!(setting.during(FloatProducts::Tf32, || (setting.read)()));
        assert!((setting.read)());
    }
}
