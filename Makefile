# Everything runs in throw-away nodes on this machine, as root: see hack/.
FLAVOUR ?= forky-v1

.PHONY: node demo test test-vm bench lint clean
node:
	python3 hack/node.py run $(FLAVOUR)
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
