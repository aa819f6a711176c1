"""Deferral thresholds with a finite-sample promise: learn a score, choose a threshold, say what it saves. Never loaded by a worker."""
