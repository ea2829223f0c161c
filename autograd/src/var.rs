//! Variables and the nodes of the tape behind them.

use crate::Param;
use medley_tensor::{Op, Result, Tensor};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Runs an op's backward: gradients of its outputs in, gradients of its inputs out.
pub(crate) type Backward = Box<dyn FnOnce(&[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> + Send>;

/// One output of a node.
pub(crate) type Edge = (Arc<Node>, usize);

/// What happens when the gradient reaches a node.
pub(crate) enum Kind {
    /// The gradient is accumulated into the parameter.
    Param(Arc<Param>),
    /// The gradient is handed out in [`crate::Gradients`].
    Leaf,
    /// The op's backward runs; taken when it does, which frees what it saved.
    Op(Mutex<Option<Backward>>),
}

/// A recorded step. Ids grow in order of recording, so descending ids are a topological order.
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) parents: Vec<Option<Edge>>,
    pub(crate) outputs: usize,
    pub(crate) kind: Kind,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Node {
    pub(crate) fn new(parents: Vec<Option<Edge>>, outputs: usize, kind: Kind) -> Arc<Self> {
        Arc::new(Node { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), parents, outputs, kind })
    }
}

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
}

/// True unless inside [`no_grad`].
pub fn is_recording() -> bool {
    RECORDING.get()
}

/// Runs `f` without recording anything: its results carry no gradient and save nothing.
pub fn no_grad<T>(f: impl FnOnce() -> T) -> T {
    recording(false, f)
}

pub(crate) fn recording<T>(on: bool, f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDING.set(self.0);
        }
    }
    let _restore = Restore(RECORDING.replace(on));
    f()
}

/// A tensor in a computation, with or without a gradient.
#[derive(Clone)]
pub struct Var {
    value: Tensor,
    node: Option<Edge>,
}

impl From<Tensor> for Var {
    /// A constant: no gradient flows into it.
    fn from(value: Tensor) -> Self {
        Var { value, node: None }
    }
}

impl Var {
    /// A leaf whose gradient is wanted, read from [`crate::Gradients`].
    pub fn leaf(value: Tensor) -> Self {
        Var { value, node: Some((Node::new(vec![], 1, Kind::Leaf), 0)) }
    }

    pub(crate) fn on_node(value: Tensor, node: Arc<Node>, output: usize) -> Self {
        Var { value, node: Some((node, output)) }
    }

    /// The value.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The value's shape.
    pub fn shape(&self) -> &[usize] {
        self.value.shape()
    }

    /// True when a gradient may flow into this variable.
    pub fn requires_grad(&self) -> bool {
        self.node.is_some()
    }

    /// The same value, cut off from the tape.
    pub fn detach(&self) -> Var {
        Var { value: self.value.clone(), node: None }
    }

    pub(crate) fn node(&self) -> Option<&Edge> {
        self.node.as_ref()
    }

    /// Runs `op` over `inputs` and records it when a gradient may be wanted.
    ///
    /// # Errors
    /// What the op refuses: shapes, dtypes, values.
    pub fn apply<O: Op>(op: O, inputs: &[&Var]) -> Result<Vec<Var>> {
        O::check_arity(inputs.len())?;
        let on = is_recording();
        let needs: Vec<bool> = inputs.iter().map(|v| on && v.node.is_some()).collect();
        let tensors: Vec<&Tensor> = inputs.iter().map(|v| &v.value).collect();
        let (outputs, saved) = op.forward(&tensors, &needs)?;
        if !needs.contains(&true) {
            return Ok(outputs.into_iter().map(Var::from).collect());
        }
        let parents =
            inputs.iter().zip(&needs).map(|(v, n)| if *n { v.node.clone() } else { None }).collect();
        let backward: Backward = Box::new(move |grads| op.backward(saved, grads, &needs));
        let node = Node::new(parents, outputs.len(), Kind::Op(Mutex::new(Some(backward))));
        Ok(outputs.into_iter().enumerate().map(|(i, v)| Var::on_node(v, node.clone(), i)).collect())
    }
}

macro_rules! methods {
    ($($name:ident: $op:ident,)*) => {
        impl Var {
            $(
                #[doc = concat!("[`medley_kernels::ops::", stringify!($op), "`] with this variable as the first input.")]
                ///
                /// # Errors
                /// What the op refuses: shapes, dtypes, values.
                pub fn $name(
                    &self,
                    op: medley_kernels::ops::$op,
                    rest: &[&Var],
                ) -> Result<[Var; <medley_kernels::ops::$op as Op>::OUTPUTS]> {
                    let inputs: Vec<&Var> = std::iter::once(self).chain(rest.iter().copied()).collect();
                    let outputs = Var::apply(op, &inputs)?;
                    let n = outputs.len();
                    outputs.try_into().map_err(|_| {
                        medley_tensor::Error::value(stringify!($name), format!("the kernel returned {n} outputs"))
                    })
                }
            )*
        }
    };
}
medley_kernels::for_each_op!(methods);
