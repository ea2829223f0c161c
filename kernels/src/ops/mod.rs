//! The ops. Everything about one op is in its folder: `mod.rs` (settings, shape rule, dispatch),
//! `cpu.rs` (forward beside backward), `tests.rs`. One line in [`crate::for_each_op`] registers it:
//! this file declares its module from the list, `autograd` makes a method of `Var` from it, and the
//! test harness demands a gradient check.
//!
//! Kernels without a gradient (the optimizer's update, the gradient norm, casts, quantisation) are no
//! ops: they work on slices in place and are listed in [`crate::updates`].

/// Calls `$callback! { folder: Struct, … }` with every differentiable op.
#[macro_export]
macro_rules! for_each_op {
    ($callback:ident) => {
        $callback! {
            rms_norm: RmsNorm,
            linear: Linear,
            lora_linear: LoraLinear,
            dora: Dora,
            linear_cross_entropy: LinearCrossEntropy,
            add_rms_norm: AddRmsNorm,
            embedding: Embedding,
            rope: Rope,
            swiglu: Swiglu,
            geglu: Geglu,
            dropout: Dropout,
            reshape: Reshape,
            attention: Attention,
            permute: Permute,
            slice: Slice,
            concat: Concat,
            index_select: IndexSelect,
            reduce: Reduce,
            binary: Binary,
            unary: Unary,
            affine: Affine,
            softmax: Softmax,
            matmul: Matmul,
            neftune: Neftune,
        }
    };
}

macro_rules! declare {
    ($($name:ident: $op:ident,)*) => {
        $(pub mod $name;)*
        $(pub use $name::$op;)*

        /// Names of all registered ops.
        pub const NAMES: &[&str] = &[$(<$op as medley_tensor::Op>::NAME),*];

        #[cfg(test)]
        mod every_op {
            $(
                #[test]
                fn $name() {
                    super::$name::tests::check();
                }
            )*
        }
    };
}
for_each_op!(declare);

pub use binary::BinaryKind;
pub use reduce::ReduceKind;
pub use rope::RopeTable;
pub use unary::UnaryKind;
