//! Products on CUDA by cublasLt, which adds bias and residual as it writes.

#![allow(unsafe_code)] // Calls of the library; descriptors are made and freed here.

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::cudarc::cublas::sys::cublasOperation_t;
use candle_core::cuda_backend::cudarc::cublaslt::result as lt;
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream, DevicePtr as _};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, DeviceId};
use candle_core::{DType, Layout, Result, Tensor, bail};
use half::{bf16, f16};

use super::measured::{Contest, is_measuring};
use super::product::{Numbers, Product, Shape};
use crate::launch::cuda::{CudaElement, Launch, first_element, for_dtype, from_first, output};

/// What NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;
/// Ways to compute a product that are compared.
const CANDIDATES: usize = 12;

/// The library for one device. Its workspace serves one product after the other, in the order of
/// the device's stream.
struct Library {
    handle: Handle,
    workspace: CudaSlice<u8>,
    /// How products of a shape are computed.
    choices: Mutex<HashMap<Case, Choice>>,
}

#[derive(Clone, Copy)]
struct Choice {
    algorithm: sys::cublasLtMatmulAlgo_t,
    /// Whether it was compared with others.
    is_measured: bool,
}

struct Handle(sys::cublasLtHandle_t);

// SAFETY: the library's handles may be used by several threads.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Case {
    shape: Shape,
    bias: bool,
    residual: bool,
    relu: bool,
    numbers: Numbers,
    dtype: DType,
    /// Bytes that the addresses of weight, `x`, residual and result are multiples of.
    alignments: [u32; 4],
}

/// Devices are few, and live as long as the process.
static LIBRARIES: LazyLock<Mutex<HashMap<DeviceId, Arc<Library>>>> = LazyLock::new(Mutex::default);

fn library(device: &CudaDevice) -> Result<Arc<Library>> {
    let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = libraries.get(&device.id()) {
        return Ok(library.clone());
    }
    let library = Arc::new(Library {
        handle: Handle(lt::create_handle().told()?),
        // SAFETY: the library writes before it reads.
        workspace: unsafe { device.alloc::<u8>(WORKSPACE)? },
        choices: Mutex::default(),
    });
    libraries.insert(device.id(), library.clone());
    Ok(library)
}

/// An answer of the library's as Candle reports errors, by the name that the library has for it.
trait Told<T> {
    fn told(self) -> Result<T>;
}

impl<T> Told<T> for std::result::Result<T, lt::CublasError> {
    fn told(self) -> Result<T> {
        self.map_err(|error| candle_core::Error::Msg(format!("cublasLt: {:?}", error.0)).bt())
    }
}

/// Something of the library's that is freed in the end.
struct Owned<T: Copy>(T, Free<T>);

type Free<T> = unsafe fn(T) -> std::result::Result<(), lt::CublasError>;

impl<T: Copy> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: made by the library, and freed once. It fails for what is none of its own only.
        let _ = unsafe { (self.1)(self.0) };
    }
}

type MatrixLayout = Owned<sys::cublasLtMatrixLayout_t>;
type Description = Owned<sys::cublasLtMatmulDesc_t>;

/// `parts` matrices of `rows` by `columns` without gaps, columns first as the library counts.
fn layout(
    dtype: sys::cudaDataType,
    rows: usize,
    columns: usize,
    parts: usize,
) -> Result<MatrixLayout> {
    let made = lt::create_matrix_layout(dtype, rows as u64, columns as u64, rows as i64).told()?;
    let made = Owned(made, lt::destroy_matrix_layout);
    if parts > 1 {
        let (count, stride) = (parts as i32, (rows * columns) as i64);
        use sys::cublasLtMatrixLayoutAttribute_t as Attribute;
        // SAFETY: the numbers are of the attributes' types.
        unsafe {
            lt::set_matrix_layout_attribute(
                made.0,
                Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT,
                (&raw const count).cast(),
                size_of::<i32>(),
            )
            .told()?;
            lt::set_matrix_layout_attribute(
                made.0,
                Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                (&raw const stride).cast(),
                size_of::<i64>(),
            )
            .told()?;
        }
    }
    Ok(made)
}

fn describe<V>(
    description: &Description,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &V,
) -> Result<()> {
    let value = (value as *const V).cast::<c_void>();
    // SAFETY: callers give a value of the attribute's type.
    unsafe { lt::set_matmul_desc_attribute(description.0, attribute, value, size_of::<V>()) }.told()
}

pub(super) fn forward(op: &Product<'_>, x: &CudaStorage, layout: &Layout) -> Result<CudaStorage> {
    if op.numbers.wide {
        let out = Kernel { op, x, layout }.launch::<f32>(&x.device)?;
        return Ok(CudaStorage::wrap_cuda_slice(out, x.device.clone()));
    }
    for_dtype("product", x, &Kernel { op, x, layout })
}

struct Kernel<'a> {
    op: &'a Product<'a>,
    x: &'a CudaStorage,
    layout: &'a Layout,
}

impl Launch for Kernel<'_> {
    fn launch<T: CudaElement>(&self, device: &CudaDevice) -> Result<CudaSlice<T>> {
        let op = self.op;
        let Shape {
            parts,
            rows,
            input,
            output: columns,
        } = op.shape;
        let stream = device.cuda_stream();
        let at = |tensor: &Tensor| first_element("product", tensor, &stream);
        let x = match op.weight.dtype() {
            DType::F16 => {
                from_first::<f16>(self.x, self.layout)?
                    .device_ptr(&stream)
                    .0
            }
            DType::BF16 => {
                from_first::<bf16>(self.x, self.layout)?
                    .device_ptr(&stream)
                    .0
            }
            _ => {
                from_first::<f32>(self.x, self.layout)?
                    .device_ptr(&stream)
                    .0
            }
        };
        let weight = at(op.weight)?;
        let bias = op.bias.map(at).transpose()?;
        let residual = op.residual.map(at).transpose()?;
        let out = output::<T>(device, parts * rows * columns)?;
        let result = out.device_ptr(&stream).0;
        let case = Case {
            shape: op.shape,
            bias: bias.is_some(),
            residual: residual.is_some(),
            relu: op.relu,
            numbers: op.numbers,
            alignments: [weight, x, residual.unwrap_or(result), result].map(alignment),
            dtype: op.weight.dtype(),
        };
        let numbers = match case.dtype {
            DType::F16 => sys::cudaDataType_t::CUDA_R_16F,
            DType::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
            DType::F32 => sys::cudaDataType_t::CUDA_R_32F,
            other => bail!("product: f32, f16 or bf16 expected, got {}", other.as_str()),
        };
        let result_numbers = if case.numbers.wide {
            sys::cudaDataType_t::CUDA_R_32F
        } else {
            numbers
        };
        let compute = if case.numbers.tf32 && case.dtype == DType::F32 {
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F
        };
        let description =
            lt::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F).told()?;
        let description = Owned(description, lt::destroy_matmul_desc);
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        // Rows of the weights are columns to the library.
        let turned = cublasOperation_t::CUBLAS_OP_T;
        describe(
            &description,
            Attribute::CUBLASLT_MATMUL_DESC_TRANSA,
            &turned,
        )?;
        let epilogue = match (case.bias, case.relu) {
            (true, true) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU_BIAS,
            (true, false) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            (false, true) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_RELU,
            (false, false) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
        };
        describe(
            &description,
            Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE,
            &epilogue,
        )?;
        if let Some(bias) = &bias {
            describe(
                &description,
                Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                bias,
            )?;
            let stride = columns as i64;
            if parts > 1 {
                describe(
                    &description,
                    Attribute::CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE,
                    &stride,
                )?;
            }
        }
        let a = layout(numbers, input, columns, parts)?;
        let b = layout(numbers, input, rows, parts)?;
        let d = layout(result_numbers, columns, rows, parts)?;
        let library = library(device)?;
        let (alpha, beta) = (1f32, if residual.is_some() { 1f32 } else { 0. });
        let workspace = library.workspace.device_ptr(&stream).0;
        let run = |algorithm: &sys::cublasLtMatmulAlgo_t, result: u64| {
            // SAFETY: the matrices are as their layouts say, and live until work that is given to
            // the stream later.
            unsafe {
                lt::matmul(
                    library.handle.0,
                    description.0,
                    (&raw const alpha).cast(),
                    (&raw const beta).cast(),
                    weight as *const c_void,
                    a.0,
                    x as *const c_void,
                    b.0,
                    residual.unwrap_or(result) as *const c_void,
                    d.0,
                    result as *mut c_void,
                    d.0,
                    algorithm,
                    workspace as *mut c_void,
                    WORKSPACE,
                    raw(&stream),
                )
            }
            .told()
        };
        let choice = library.choice(case, &description, [&a, &b, &d])?;
        let algorithm = if is_measuring() && !choice.is_measured {
            let candidates = library.candidates(case, &description, [&a, &b, &d], CANDIDATES)?;
            let contest = Contest {
                device,
                scratch: &library.workspace,
                result,
                bytes: size_of::<T>() * parts * rows * columns,
            };
            let fastest = contest.fastest(candidates.len(), |way, result| {
                run(&candidates[way], result)
            })?;
            let algorithm = candidates[fastest];
            library.choose(
                case,
                Choice {
                    algorithm,
                    is_measured: true,
                },
            );
            algorithm
        } else {
            choice.algorithm
        };
        run(&algorithm, result)?;
        Ok(out)
    }
}

/// Bytes that an address is a multiple of, as far as the library cares.
fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

/// The stream as the library calls it.
fn raw(stream: &CudaStream) -> sys::cudaStream_t {
    stream.cu_stream().cast()
}

impl Library {
    /// How a product is computed: as it was chosen before, else as the library suggests.
    fn choice(
        &self,
        case: Case,
        description: &Description,
        layouts: [&MatrixLayout; 3],
    ) -> Result<Choice> {
        let known = self.choices().get(&case).copied();
        if let Some(choice) = known {
            return Ok(choice);
        }
        let suggested = self.candidates(case, description, layouts, 1)?;
        let choice = Choice {
            algorithm: suggested[0],
            is_measured: false,
        };
        self.choose(case, choice);
        Ok(choice)
    }

    fn choose(&self, case: Case, choice: Choice) {
        self.choices().insert(case, choice);
    }

    fn choices(&self) -> MutexGuard<'_, HashMap<Case, Choice>> {
        self.choices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the library has for a product: `most` at most and one at least, the one that it
    /// suggests first.
    fn candidates(
        &self,
        case: Case,
        description: &Description,
        [a, b, d]: [&MatrixLayout; 3],
        most: usize,
    ) -> Result<Vec<sys::cublasLtMatmulAlgo_t>> {
        let preference = Owned(lt::create_matmul_pref().told()?, lt::destroy_matmul_pref);
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let alignments = [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ];
        for (attribute, bytes) in alignments.into_iter().zip(&case.alignments) {
            let bytes = (&raw const *bytes).cast();
            // SAFETY: the preference lives, and the number is of the attribute's type.
            unsafe { lt::set_matmul_pref_attribute(preference.0, attribute, bytes, 4) }.told()?;
        }
        let workspace = WORKSPACE;
        // SAFETY: the preference lives, and the number is of the attribute's type.
        unsafe {
            lt::set_matmul_pref_attribute(
                preference.0,
                Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const workspace).cast(),
                size_of::<usize>(),
            )
        }
        .told()?;
        let mut found = vec![MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit(); most];
        let mut count = 0;
        // SAFETY: the descriptors live, and there is room for as many results as are asked for.
        unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle.0,
                description.0,
                a.0,
                b.0,
                d.0,
                d.0,
                preference.0,
                most as i32,
                found.as_mut_ptr().cast(),
                &mut count,
            )
        }
        .result()
        .told()?;
        let found = found[..count.clamp(0, most as i32) as usize]
            .iter()
            // SAFETY: so many were written.
            .map(|result| unsafe { result.assume_init() })
            .filter(|result| result.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS)
            .map(|result| result.algo);
        let found: Vec<_> = found.collect();
        if found.is_empty() {
            bail!("cublasLt: no way to compute a product of these shapes");
        }
        Ok(found)
    }
}
