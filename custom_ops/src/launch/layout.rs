//! Checks of an op's arguments that name the op, the argument and what is wrong.

use candle_core::{DType, Layout, Result, Tensor, bail};

/// Kernels index elements with 32 bits.
const MOST_ELEMENTS: usize = i32::MAX as usize;

/// Refuses dtypes other than float32, float16 and bfloat16.
pub(crate) fn check_dtype(op: &str, name: &str, tensor: &Tensor) -> Result<()> {
    match tensor.dtype() {
        DType::F32 | DType::F16 | DType::BF16 => Ok(()),
        other => bail!(
            "{op}: {name} must be f32, f16 or bf16, got {}",
            other.as_str()
        ),
    }
}

/// Refuses empty tensors and those of more elements than a kernel can count.
pub(crate) fn check_size(op: &str, name: &str, tensor: &Tensor) -> Result<()> {
    let elements = tensor.elem_count();
    if elements == 0 {
        bail!("{op}: {name} {:?} is empty", tensor.dims());
    }
    if elements > MOST_ELEMENTS {
        bail!(
            "{op}: {name} {:?} has {elements} elements, more than {MOST_ELEMENTS}",
            tensor.dims()
        );
    }
    Ok(())
}

/// Extents and strides of what has four axes.
pub(crate) fn four_axes(op: &str, layout: &Layout) -> Result<([usize; 4], [usize; 4])> {
    match (layout.dims().try_into(), layout.stride().try_into()) {
        (Ok(dims), Ok(strides)) => Ok((dims, strides)),
        _ => bail!("{op}: four axes expected, got {:?}", layout.dims()),
    }
}

/// A size, stride or count as kernels take it.
#[cfg(any(test, feature = "cuda"))]
pub(crate) fn kernel_number(op: &str, name: &str, number: usize) -> Result<u32> {
    if number > MOST_ELEMENTS {
        bail!(
            "{op}: {name} {number} is more than {MOST_ELEMENTS}, the most that a kernel can count"
        );
    }
    Ok(number as u32)
}

/// The tensor itself where its last axis is contiguous, else a contiguous copy.
pub(crate) fn with_contiguous_channels(tensor: &Tensor) -> Result<Tensor> {
    let dense = tensor.dims().last() == Some(&1) || tensor.stride().last() == Some(&1);
    // Steps of a broadcast or of a view into something huge may not fit a kernel's 32 bits.
    let reach: usize = tensor
        .dims()
        .iter()
        .zip(tensor.stride())
        .map(|(dim, stride)| dim.saturating_sub(1) * stride)
        .sum();
    if dense && reach <= MOST_ELEMENTS {
        Ok(tensor.clone())
    } else {
        tensor.contiguous()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_a_kernels_range_are_refused_by_name() {
        assert_eq!(
            kernel_number("op", "rows", MOST_ELEMENTS).unwrap(),
            i32::MAX as u32
        );
        for number in [MOST_ELEMENTS + 1, u32::MAX as usize + 1, usize::MAX] {
            let message = kernel_number("op", "rows", number).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("op: rows {number} is more than 2147483647")),
                "{message}"
            );
        }
    }
}
