package checkpoint

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// A payload is decoded or refused, never panics, and what is decoded can be
// written again.
func FuzzDecode(f *testing.F) {
	payload := appendInputs(nil, []string{"in", ""})
	payload = binary.AppendUvarint(payload, 2)
	payload = appendFile(payload, &File{ID: 1, Name: "a", Frontier: 5, Final: []Range{{7, 9}, {9, 12}}})
	payload = appendFile(payload, &File{Input: "in", Packed: true, Born: -1})
	f.Add(payload)
	f.Add([]byte{0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decode(b)
		if err != nil {
			return
		}
		again := appendInputs(nil, s.inputs)
		again = binary.AppendUvarint(again, uint64(len(s.files)))
		for i := range s.files {
			NewTracker(s.files[i].Frontier, s.files[i].Final)
			again = appendFile(again, &s.files[i])
		}
		second, err := decode(again)
		if err != nil {
			t.Fatalf("what was written again cannot be read: %v", err)
		}
		third := appendInputs(nil, second.inputs)
		third = binary.AppendUvarint(third, uint64(len(second.files)))
		for i := range second.files {
			third = appendFile(third, &second.files[i])
		}
		if !bytes.Equal(again, third) {
			t.Fatal("what was read back differs")
		}
	})
}

// A slot is opened or refused.
func FuzzOpenSlot(f *testing.F) {
	slot := append(appendHead(nil, 9), 0, 0)
	seal(slot)
	f.Add(slot)
	f.Add([]byte(magic))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, payload, err := openSlot(b)
		if err == nil {
			_, _ = decode(payload)
		}
	})
}
