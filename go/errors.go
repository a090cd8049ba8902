package calotype

// #include <calotype/calotype.h>
import "C"

import "runtime"

// Code says of what kind an Error is. errors.Is(err, calotype.NotFound) tells.
type Code int

const (
	InvalidArgument Code = C.CALOTYPE_INVALID_ARGUMENT // the caller asked for something that makes no sense
	NotFound        Code = C.CALOTYPE_NOT_FOUND        // a file, model or device that is not there
	InvalidData     Code = C.CALOTYPE_INVALID_DATA     // a file or buffer that cannot be what it claims to be
	Unsupported     Code = C.CALOTYPE_UNSUPPORTED      // well-formed, but nothing here implements it
	IO              Code = C.CALOTYPE_IO               // the operating system refused to read or write
	OutOfMemory     Code = C.CALOTYPE_OUT_OF_MEMORY    // a memory budget or the machine is too small
	Cancelled       Code = C.CALOTYPE_CANCELLED        // a progress function said stop
	Internal        Code = C.CALOTYPE_INTERNAL         // a fault of Calotype's own
)

func (code Code) Error() string { return C.GoString(C.calotype_status_name(C.calotype_status(code))) }

// Error is any failure of the library; Message is one full sentence.
type Error struct {
	Code    Code
	Message string
}

func (err *Error) Error() string { return err.Message }

// Unwrap makes errors.Is(err, calotype.NotFound) work.
func (err *Error) Unwrap() error { return err.Code }

// call turns the status of a function of the library into an error. The library keeps the sentence
// for each thread, so the goroutine must not change threads before it is read.
func call(function func() C.calotype_status) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	status := function()
	if status == C.CALOTYPE_OK {
		return nil
	}
	return &Error{Code: Code(status), Message: C.GoString(C.calotype_last_error())}
}
