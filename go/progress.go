package calotype

// #include <stdint.h>
import "C"

import (
	"context"
	"runtime/cgo"
)

// job is what the progress callback of a running job looks at.
type job struct {
	ctx      context.Context
	progress func(fraction float64, layer string) bool
	panicked any // what the progress function panicked with
}

// calotypeGoProgress is called by the library from the thread that runs a job. 0: go on.
//
//export calotypeGoProgress
func calotypeGoProgress(fraction C.double, layer *C.char, user C.uintptr_t) (stop C.int) {
	running := cgo.Handle(user).Value().(*job)
	// A panic must not run through the frames of C++; it goes on when these are gone.
	defer func() {
		if reason := recover(); reason != nil {
			running.panicked = reason
			stop = 1
		}
	}()
	if running.ctx.Err() != nil {
		return 1
	}
	if running.progress != nil && !running.progress(float64(fraction), C.GoString(layer)) {
		return 1
	}
	return 0
}
