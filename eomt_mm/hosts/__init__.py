"""What mmengine and the hosts do differently once :func:`~eomt_mm.hosts.install.install` was called: file backends,
checkpoint reading, image loading."""
