"""The simulator: what happens downstream of the scaler, without a cluster."""
