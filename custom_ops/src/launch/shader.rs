//! What the host knows of a Metal kernel before it meets a device: its arguments, its name, its
//! threads.

use candle_core::{DType, Layout, Result, bail};

/// Threads of a threadgroup where the pipeline allows as many; kernels without shared memory gain
/// nothing beyond.
const THREADS: usize = 256;
/// Threads that a GPU runs in step.
pub(crate) const SIMD: usize = 32;
/// Elements of a kernel's vector type.
pub(crate) const VECTOR: usize = 4;

/// How a kernel uses an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// A buffer that it reads.
    Read,
    /// The buffer that it fills.
    Written,
    /// A buffer that it reads and writes.
    Changed,
    /// The parameter block, copied into the command.
    Params,
}

/// An argument of a kernel; its place in [`Shader::arguments`] is its buffer index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Argument {
    pub(crate) name: &'static str,
    pub(crate) used: Use,
    /// Of its elements, as the shader spells it: `V` and `F` stand for the instantiation's.
    #[cfg_attr(not(test), allow(dead_code))]
    // Only the shader's own declaration is compared with it.
    pub(crate) element: &'static str,
}

impl Argument {
    pub(crate) const fn new(name: &'static str, used: Use, element: &'static str) -> Self {
        Self {
            name,
            used,
            element,
        }
    }
}

/// A Metal source and the arguments that all of its kernels take.
#[derive(Debug)]
pub(crate) struct Shader {
    /// The op, with which the names of its kernels begin.
    pub(crate) op: &'static str,
    pub(crate) source: &'static str,
    pub(crate) arguments: &'static [Argument],
}

/// One launch, without its buffers.
#[derive(Debug)]
pub(crate) struct Plan<P> {
    /// The kernel's name in the source.
    pub(crate) kernel: String,
    pub(crate) params: P,
    /// Threads that have something to do. Only the first axis may be overhung by more.
    pub(crate) threads: [usize; 3],
    /// Elements of the output.
    pub(crate) elements: usize,
}

/// Threadgroups and threads of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) groups: [usize; 3],
    pub(crate) threads: [usize; 3],
}

impl Grid {
    /// Threadgroups of at most `limit` threads along the first axis that cover `threads`: whole SIMD
    /// groups, of threads that are neighbours along that axis, where the limit allows one.
    pub(crate) fn covering([x, y, z]: [usize; 3], limit: usize) -> Self {
        let limit = if limit > SIMD {
            limit / SIMD * SIMD
        } else {
            limit
        };
        let width = THREADS.min(x.next_multiple_of(SIMD)).min(limit).max(1);
        Self {
            groups: [x.div_ceil(width), y, z],
            threads: [width, 1, 1],
        }
    }
}

impl Shader {
    /// The kernel for elements of `dtype`, single or [`VECTOR`] at once.
    pub(crate) fn kernel(&self, dtype: DType, vector: usize) -> Result<String> {
        let name = match dtype {
            DType::F32 | DType::F16 | DType::BF16 => dtype.as_str(),
            other => bail!(
                "{}: on Metal f32, f16 or bf16 expected, got {}",
                self.op,
                other.as_str()
            ),
        };
        let suffix = if vector > 1 { "_x4" } else { "" };
        Ok(format!("{}_{name}{suffix}", self.op))
    }
}

/// [`VECTOR`] if `run` neighbouring channels and every step between them are whole vectors in all
/// of `layouts`, so that a kernel's vectors are aligned, else 1.
pub(crate) fn vector(run: usize, layouts: &[&Layout]) -> usize {
    let whole = |n: usize| n.is_multiple_of(VECTOR);
    let steps = |layout: &&Layout| {
        let outer = layout.dims().len().saturating_sub(1);
        let mut axes = layout.dims().iter().zip(layout.stride()).take(outer);
        whole(layout.start_offset()) && axes.all(|(&dim, &stride)| dim == 1 || whole(stride))
    };
    if whole(run) && layouts.iter().all(steps) {
        VECTOR
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn threadgroups_cover_all_threads_within_the_limit() {
        for x in [1, 31, 32, 33, 255, 256, 257, 5000] {
            for limit in [1, 32, 100, 1024] {
                let Grid { groups, threads } = Grid::covering([x, 3, 2], limit);
                assert!(
                    threads[0] <= limit && threads[0] <= THREADS,
                    "{x} of {limit}: {threads:?}"
                );
                let covered = groups[0] * threads[0];
                assert!(
                    covered >= x && covered < x + threads[0],
                    "{x} of {limit}: {covered}"
                );
                assert_eq!((&groups[1..], &threads[1..]), (&[3, 2][..], &[1, 1][..]));
                assert!(
                    limit < SIMD || threads[0].is_multiple_of(SIMD),
                    "{x} of {limit}: lanes of a SIMD group in two threadgroups"
                );
            }
        }
    }

    #[test]
    fn vectors_are_taken_only_where_every_one_is_aligned() {
        let tensor = Tensor::zeros((2, 3, 3, 8), DType::F32, &Device::Cpu).unwrap();
        let of = |run: usize, tensor: &Tensor| vector(run, &[tensor.layout()]);
        assert_eq!(of(8, &tensor), 4);
        assert_eq!(of(2, &tensor), 1, "two channels are no vector");
        assert_eq!(of(4, &tensor.narrow(3, 1, 4).unwrap()), 1, "an odd offset");
        assert_eq!(of(4, &tensor.narrow(3, 4, 4).unwrap()), 4);
        let odd = Tensor::zeros((2, 3, 3, 9), DType::F32, &Device::Cpu)
            .unwrap()
            .narrow(3, 0, 8)
            .unwrap();
        assert_eq!(of(8, &odd), 1, "nine elements between pixels");
        let pixel = odd
            .narrow(0, 0, 1)
            .unwrap()
            .narrow(1, 0, 1)
            .unwrap()
            .narrow(2, 0, 1)
            .unwrap();
        assert_eq!(of(8, &pixel), 4, "no step is ever made");
    }
}
