//! Why a request is refused.

/// Why a request was refused, in words for the operator.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// What the request names does not exist; the message lists what does.
    #[error("{0}")]
    NotFound(String),
    /// It exists already, or conflicts with something that does.
    #[error("{0}")]
    Conflict(String),
    /// The request is wrong in itself.
    #[error("{0}")]
    Invalid(String),
    /// The daemon could not do it: a file, the kernel.
    #[error("{0}")]
    Failed(String),
}

/// An answer of the owner task.
pub type Answer<T> = Result<T, Refusal>;
