//go:build !amd64 || purego

package record

// appendEscaped appends s as the inside of a JSON string and reports whether s
// is all ASCII. UTF-8 is not checked here: bytes from 0x80 up are copied.
//
// Ownership: s is read, never kept. Allocates only to grow dst.
func appendEscaped(dst, s []byte) (out []byte, ascii bool) { return appendEscapedPlain(dst, s) }
