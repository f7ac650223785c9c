//! Instruction sets, chosen at run time.
//!
//! Every hot loop of this crate is written once, in safe Rust, and compiled three times: for AVX-512, for AVX2 with
//! FMA, and for the target's baseline. [`per_isa!`] makes the copies and picks one.

use std::sync::OnceLock;

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// x86-64 with AVX-512 F, VL, BW, DQ and FMA.
    Avx512,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// Whatever the crate was compiled for.
    Portable,
}

impl Isa {
    /// All of them, the fastest first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    /// The fastest instruction set of this machine, or of those that the environment variable `CBN_MAX_ISA` allows: `avx512`,
    /// `avx2` or `portable`. It is read once.
    ///
    /// # Panics
    ///
    /// If `CBN_MAX_ISA` is anything else.
    pub fn detect() -> Self {
        static FASTEST: OnceLock<Isa> = OnceLock::new();
        *FASTEST.get_or_init(|| {
            let most = std::env::var("CBN_MAX_ISA").map_or(Self::Avx512, |name| Self::from_name(&name));
            let allowed = Self::ALL.into_iter().skip_while(|isa| *isa != most);
            allowed.into_iter().find(|isa| isa.is_available()).unwrap_or(Self::Portable)
        })
    }

    fn from_name(name: &str) -> Self {
        match name {
            "avx512" => Self::Avx512,
            "avx2" => Self::Avx2,
            "portable" => Self::Portable,
            _ => panic!("CBN_MAX_ISA is avx512, avx2 or portable, not {name:?}"),
        }
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("fma")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        }
    }
}

/// Proof that the machine has the instruction set: the only way to one is [`Kernels::new`], which checks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernels {
    isa: Isa,
}

impl Kernels {
    /// # Panics
    ///
    /// If the machine does not have `isa`.
    pub(crate) fn new(isa: Isa) -> Self {
        assert!(isa.is_available(), "this machine has no {isa:?}; the best it has is {:?}", Isa::detect());
        Self { isa }
    }

    pub(crate) fn isa(self) -> Isa {
        self.isa
    }
}

/// What a loop body may assume of the instruction set that it is compiled for.
pub(crate) trait Target {
    /// `mul_add` is one instruction (elsewhere it is a slow library call).
    const HAS_FMA: bool;
    /// There are 32 registers of 16 floats.
    const IS_WIDE: bool;

    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        if Self::HAS_FMA { a.mul_add(b, c) } else { a * b + c }
    }
}

pub(crate) struct Avx512;
pub(crate) struct Avx2;
pub(crate) struct Portable;

impl Target for Avx512 {
    const HAS_FMA: bool = true;
    const IS_WIDE: bool = true;
}
impl Target for Avx2 {
    const HAS_FMA: bool = true;
    const IS_WIDE: bool = false;
}
impl Target for Portable {
    const HAS_FMA: bool = false;
    const IS_WIDE: bool = false;
}

/// Asks for the cache line of `values[at]` to be brought to the second-level cache, if there is such an element.
#[inline(always)]
pub(crate) fn prefetch(values: &[f32], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(value) = values.get(at) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction; it changes no value, and the address is that of an element.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(value).cast()) }
    }
}

/// Defines `fn name(kernels, args..)`, which runs `body::<T>(args..)` compiled for the instruction set of `kernels`.
///
/// `body` and all that it calls in its loops must be `#[inline(always)]`: code that is not inlined keeps the baseline.
macro_rules! per_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "the kernels come on top of the body's arguments")]
        $vis fn $name(kernels: $crate::isa::Kernels, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
            fn avx512($($arg: $ty),*) {
                $body::<$crate::isa::Avx512>($($arg),*);
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) {
                $body::<$crate::isa::Avx2>($($arg),*);
            }
            match kernels.isa() {
                // SAFETY: a `Kernels` of this instruction set exists only where the machine has it.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => $body::<$crate::isa::Portable>($($arg),*),
            }
        }
    };
}
pub(crate) use per_isa;
