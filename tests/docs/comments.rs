//! The comments of the proto files, as the descriptors keep them.

use prost_reflect::FileDescriptor;

/// Returns what is written above the thing at a path of the file, as one line; empty for nothing.
pub(crate) fn above(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let locations = info.map_or(&[][..], |info| &info.location);
    let location = locations.iter().find(|location| location.path == path);
    let text = location.and_then(|location| location.leading_comments.as_deref());
    let words = text.unwrap_or_default().split_whitespace();
    words.collect::<Vec<_>>().join(" ")
}
