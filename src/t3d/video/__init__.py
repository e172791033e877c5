"""Read and write single video files, with exact random access to frames."""
