# Everything runs in throw-away nodes on this machine, as root: see hack/.
FLAVOUR ?= forky-v1

.PHONY: node images cluster cluster-load cluster-down demo test test-vm bench lint clean
node:
	python3 hack/node.py run $(FLAVOUR)
images:
	python3 hack/shipped.py
cluster:
	@python3 hack/cluster.py up
cluster-load:
	python3 hack/cluster.py load "$(IMAGE)"
cluster-down:
	python3 hack/cluster.py down
demo:
	python3 hack/check.py demo
test:
	python3 hack/check.py test
test-vm:
	python3 hack/check.py test-vm
bench:
	python3 hack/check.py bench
lint:
	python3 hack/check.py lint
clean:
	python3 hack/node.py clean
