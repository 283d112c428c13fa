//! ServiceAccount: only that it exists.

use super::{Object, meta};
use crate::fields::Fields;

pub(super) fn read(object: &Fields<'_>) -> Object {
    let object = object.clone().known(&[
        "apiVersion",
        "automountServiceAccountToken",
        "imagePullSecrets",
        "kind",
        "metadata",
        "secrets",
    ]);
    let metadata = meta::metadata(&object);
    meta::labels_and_enroll(&metadata);
    Object::ServiceAccount
}
