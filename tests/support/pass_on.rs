//! What a file system that wraps another hands on unchanged.

/// Methods of [`Fs`](latchwork::fs::Fs) or [`File`](latchwork::fs::File), handed on to a field:
/// `pass_on!(inner: rename read_dir)`.
macro_rules! pass_on {
    ($field:tt: $($method:ident)+) => { $(pass_on!(@ $method $field);)+ };
    (@ rename $field:tt) => {
        fn rename(&self, from: &std::path::Path, to: &std::path::Path) -> std::io::Result<()> {
            self.$field.rename(from, to)
        }
    };
    (@ remove_file $field:tt) => {
        fn remove_file(&self, path: &std::path::Path) -> std::io::Result<()> {
            self.$field.remove_file(path)
        }
    };
    (@ create_dir_all $field:tt) => {
        fn create_dir_all(&self, path: &std::path::Path) -> std::io::Result<()> {
            self.$field.create_dir_all(path)
        }
    };
    (@ read_dir $field:tt) => {
        fn read_dir(&self, path: &std::path::Path) -> std::io::Result<Vec<std::ffi::OsString>> {
            self.$field.read_dir(path)
        }
    };
    (@ sync_dir $field:tt) => {
        fn sync_dir(&self, path: &std::path::Path) -> std::io::Result<()> {
            self.$field.sync_dir(path)
        }
    };
    (@ read_at $field:tt) => {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
            self.$field.read_at(buffer, offset)
        }
    };
    (@ write_at $field:tt) => {
        fn write_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<usize> {
            self.$field.write_at(bytes, offset)
        }
    };
    (@ allocate $field:tt) => {
        fn allocate(&self, len: u64) -> std::io::Result<()> {
            self.$field.allocate(len)
        }
    };
    (@ set_len $field:tt) => {
        fn set_len(&self, len: u64) -> std::io::Result<()> {
            self.$field.set_len(len)
        }
    };
    (@ len $field:tt) => {
        fn len(&self) -> std::io::Result<u64> {
            self.$field.len()
        }
    };
    (@ try_lock $field:tt) => {
        fn try_lock(&self) -> std::io::Result<bool> {
            self.$field.try_lock()
        }
    };
}
