"""What the daemon tells Kubernetes: labels, requests, Events. Nothing of it is needed to sleep or to wake."""
