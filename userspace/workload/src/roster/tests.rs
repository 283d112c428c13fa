//! The roster against a plain model, and the questions that it answers.
