"""`python -m simulations`: networks of simulated peers held against the scorecard. Scenarios and seeds only; every
mechanism lives in `p2pmodel.testing`."""
