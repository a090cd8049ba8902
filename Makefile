# `make` builds build/calotype, `make demo` shows what it does, `make test` runs everything that CI runs.
BUILD ?= build
CMAKE_FLAGS ?=
PREFIX ?= /usr/local

.PHONY: all packages demo test check lint format install clean cuda test-cuda sanitize-cuda bench-cuda

all: packages
	cmake -S . -B $(BUILD) -G Ninja -DCMAKE_BUILD_TYPE=Release -DCALOTYPE_TESTS=OFF $(CMAKE_FLAGS)
	cmake --build $(BUILD)

packages:
	scripts/install-packages.sh scripts/packages.txt

demo: all
	mkdir -p $(BUILD)/demo
	$(BUILD)/calotype roundtrip models/photos/astronaut.png -o $(BUILD)/demo/astronaut.png \
	    --compare $(BUILD)/demo/comparison.png
	@echo "Original, result and their difference, side by side: $(BUILD)/demo/comparison.png"

# Everything that CI runs; `scripts/test.sh STEP ...` runs some of it.
test:
	scripts/install-packages.sh scripts/packages.txt scripts/packages-test.txt
	scripts/test.sh

# The unit tests alone.
check:
	scripts/install-packages.sh scripts/packages.txt scripts/packages-test.txt
	scripts/test.sh unit

lint:
	scripts/test.sh format lint

format:
	git ls-files '*.cc' '*.h' '*.c' '*.cu' '*.cuh' | xargs clang-format -i

install: all
	cmake --install $(BUILD) --prefix $(PREFIX)

# The plugin for NVIDIA GPUs, with the machine's CUDA toolkit; its tests and benchmark need a GPU.
cuda:
	@scripts/cuda-toolkit.sh >/dev/null
	scripts/install-packages.sh scripts/packages.txt scripts/packages-test.txt
	cmake -S . -B build-cuda -G Ninja -DCMAKE_BUILD_TYPE=Release -DCALOTYPE_CUDA=ON \
	    -DCMAKE_CUDA_COMPILER=$$(scripts/cuda-toolkit.sh) $(CMAKE_FLAGS)
	cmake --build build-cuda

test-cuda: cuda
	CALOTYPE_CUDA_PLUGIN=build-cuda/bin/libcalotype_cuda.so build-cuda/bin/cuda_gpu_test

# Takes long, racecheck above all (a quarter of an hour of four GPUs and 64 cores): --only and
# --limit of the script run some of it.
sanitize-cuda: cuda
	CALOTYPE_CUDA_PLUGIN=build-cuda/bin/libcalotype_cuda.so \
	    scripts/sanitize-cuda.py build-cuda/bin/cuda_gpu_test --log build-cuda/sanitizer

bench-cuda: cuda
	python3 bench/peers_cuda.py --library build-cuda/bin --portable

clean:
	rm -rf $(BUILD) build-*
