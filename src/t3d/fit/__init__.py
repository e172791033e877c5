"""From a folder of labeled videos to a tested, exported classifier: `t3d fit`."""
