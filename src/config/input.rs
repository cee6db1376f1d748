//! Files that somebody names: ordinary ones, and no larger than they may be.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Opens an ordinary file. A pipe would be waited for without end, and a device may have none.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let ordinary = |is_file: bool| {
        let what = "it is no ordinary file: copy what it gives into one";
        if is_file {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, what))
        }
    };
    // Asked before it is opened, because opening a pipe waits for its other end.
    ordinary(std::fs::metadata(path)?.is_file())?;
    let file = File::open(path)?;
    ordinary(file.metadata()?.is_file())?;
    Ok(file)
}

/// The bytes of an ordinary file that has no more than so many.
pub(crate) fn bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let what = format!("it has more than {} MiB", most >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_an_end_near_enough() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        std::fs::write(&path, vec![0; 1 << 20]).expect("a file");
        assert_eq!(
            bytes(&path, 1 << 20).map(|bytes| bytes.len()).ok(),
            Some(1 << 20)
        );
        std::fs::write(&path, vec![0; (1 << 20) + 1]).expect("a file");
        let error = bytes(&path, 1 << 20).expect_err("too large");
        assert!(error.to_string().contains("more than 1 MiB"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn pipes_folders_and_devices_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let fifo = directory.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).expect("a pipe");
        for path in [fifo.as_path(), directory.path(), Path::new("/dev/zero")] {
            let error = open(path).expect_err("no file");
            assert!(error.to_string().contains("no ordinary file"), "{error}");
        }
    }
}
