//! Typed values between the stages of a detector.
