//! State that a layer changes while it runs: part of the module, not trained.
//!
//! Burn's `RunningState` shares its value between clones, keeps the last update apart until the next one, averages over threads and
//! is recorded without that update. A window of past iterations needs the opposite: a clone goes its own way, and what was
//! written last is what is read, saved and replaced by a load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param, ParamId,
};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::context::beside;

/// A tensor of the module that `forward` may replace: running statistics, a history. What PyTorch calls a buffer.
///
/// Recorded and loaded as a float tensor; it never requires gradients, whatever is unfrozen.
#[derive(Debug)]
pub struct Buffer<const D: usize> {
    id: ParamId,
    /// Where the value is, with autodiff or without.
    device: Device,
    /// Nothing only if making it panicked.
    value: Mutex<Option<Value<D>>>,
}

/// What is held, or how it is made once somebody asks.
#[expect(clippy::large_enum_variant, reason = "nearly every buffer holds the large one")]
enum Value<const D: usize> {
    Now(Tensor<D>),
    Later(Box<dyn FnOnce() -> Tensor<D> + Send>),
}

impl<const D: usize> std::fmt::Debug for Value<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Now(tensor) => tensor.fmt(f),
            Self::Later(_) => f.write_str("made when it is read"),
        }
    }
}

impl<const D: usize> Buffer<D> {
    /// Holds `value`.
    pub fn new(value: Tensor<D>) -> Self {
        Self::with_id(ParamId::new(), value)
    }

    fn with_id(id: ParamId, value: Tensor<D>) -> Self {
        Self { id, device: value.device(), value: Mutex::new(Some(Value::Now(value))) }
    }

    /// The value last set.
    pub fn value(&self) -> Tensor<D> {
        let mut held = self.lock();
        let value = match held.take().expect("making the value did not panic") {
            Value::Now(value) => value,
            Value::Later(make) => make(),
        };
        let value = beside(value, &self.device);
        *held = Some(Value::Now(value.clone()));
        value
    }

    /// The value where `device` is, with autodiff if that has it.
    pub(super) fn value_beside(&self, device: &Device) -> Tensor<D> {
        let value = beside(self.value(), device);
        if value.device() == *device { value } else { value.to_device(device) }
    }

    /// Replaces the value, which may lack the autodiff of the old one.
    pub fn set(&self, value: Tensor<D>) {
        *self.lock() = Some(Value::Now(value));
    }

    /// Replaces the value by what `make` returns when the value is first read, saved or moved.
    pub(super) fn set_later(&self, make: impl FnOnce() -> Tensor<D> + Send + 'static) {
        *self.lock() = Some(Value::Later(Box::new(make)));
    }

    /// A value is replaced whole, so a panic elsewhere leaves none half-written.
    fn lock(&self) -> MutexGuard<'_, Option<Value<D>>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<const D: usize> Clone for Buffer<D> {
    fn clone(&self) -> Self {
        Self::with_id(self.id, self.value())
    }
}

impl<const D: usize> Module for Buffer<D> {
    fn collect_devices(&self, mut devices: Devices) -> Devices {
        if !devices.contains(&self.device) {
            devices.push(self.device.clone());
        }
        devices
    }

    fn fork(self, device: &Device) -> Self {
        self.to_device(device)
    }

    fn to_device(self, device: &Device) -> Self {
        Self::with_id(self.id, self.value().to_device(device))
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.visit_float(&Param::initialized(self.id, self.value()));
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let (id, value, _) = mapper.map_float(Param::initialized(self.id, self.value())).consume();
        Self::with_id(id, value.set_require_grad(false))
    }

    fn materialize(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        Self::with_id(self.id, self.value().without_autodiff())
    }

    fn train(self) -> Self {
        let value = self.value();
        Self::with_id(self.id, if value.device().is_autodiff() { value } else { Tensor::from_inner(value) })
    }
}

impl<const D: usize> std::fmt::Display for Buffer<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer {:?}", self.value().dims())
    }
}

impl<const D: usize> ModuleDisplayDefault for Buffer<D> {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_formatted(&self.to_string()).optional()
    }
}

impl<const D: usize> ModuleDisplay for Buffer<D> {}

/// A whole number of the module that `forward` may change. It lives on the host, so that reading it waits for no device.
///
/// Recorded and loaded as an integer tensor `[1]`.
#[derive(Debug)]
pub struct Counter {
    id: ParamId,
    value: AtomicU64,
}

impl Counter {
    /// Starts at 0.
    pub fn new() -> Self {
        Self::with_id(ParamId::new(), 0)
    }

    fn with_id(id: ParamId, value: u64) -> Self {
        Self { id, value: AtomicU64::new(value) }
    }

    /// The number.
    pub fn get(&self) -> usize {
        usize::try_from(self.value.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    /// Replaces the number.
    pub fn set(&self, value: usize) {
        self.value.store(value as u64, Ordering::Relaxed);
    }

    /// Adds one and says what the number is now.
    pub fn increment(&self) -> usize {
        self.set(self.get().saturating_add(1));
        self.get()
    }

    fn as_param(&self) -> Param<Tensor<1, Int>> {
        let value = i64::try_from(self.get()).unwrap_or(i64::MAX);
        Param::initialized(self.id, Tensor::from_data(TensorData::new(vec![value], [1]), &Device::flex()))
    }
}

impl Default for Counter {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for Counter {
    fn clone(&self) -> Self {
        Self::with_id(self.id, self.get() as u64)
    }
}

impl Module for Counter {
    fn collect_devices(&self, devices: Devices) -> Devices {
        devices
    }

    fn fork(self, _device: &Device) -> Self {
        self
    }

    fn to_device(self, _device: &Device) -> Self {
        self
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.visit_int(&self.as_param());
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let (id, value, _) = mapper.map_int(self.as_param()).consume();
        let value = value.into_data().iter::<i64>().next().unwrap_or(0);
        Self::with_id(id, value.max(0) as u64)
    }

    fn materialize(self) -> Self {
        self
    }

    fn valid(&self) -> Self {
        self.clone()
    }

    fn train(self) -> Self {
        self
    }
}

impl std::fmt::Display for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Counter {}", self.get())
    }
}

impl ModuleDisplayDefault for Counter {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_formatted(&self.to_string()).optional()
    }
}

impl ModuleDisplay for Counter {}
