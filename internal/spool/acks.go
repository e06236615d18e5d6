package spool

import (
	"encoding/binary"
	"math/bits"
)

// span is the records [lo,hi).
type span struct{ lo, hi int64 }

// spans are the records of files that are gone, in order and joined where they
// touch.
type spans []span

// add puts [lo,hi) in. Spans that overlap or touch become one.
func (s spans) add(lo, hi int64) spans {
	if lo >= hi {
		return s
	}
	i := 0
	for i < len(s) && s[i].hi < lo {
		i++
	}
	j := i
	for j < len(s) && s[j].lo <= hi {
		lo, hi = min(lo, s[j].lo), max(hi, s[j].hi)
		j++
	}
	if i == j {
		s = append(s, span{})
		copy(s[i+1:], s[i:])
		s[i] = span{lo, hi}
		return s
	}
	s[i] = span{lo, hi}
	return append(s[:i+1], s[j:]...)
}

// below drops what lies below n.
func (s spans) below(n int64) spans {
	for len(s) > 0 && s[0].hi <= n {
		s = s[1:]
	}
	if len(s) > 0 && s[0].lo < n {
		s[0].lo = n
	}
	return s
}

// bitmap has one bit per record of a segment. nil is all zeros.
type bitmap []uint64

func (b bitmap) has(i int64) bool { return i>>6 < int64(len(b)) && b[i>>6]>>(i&63)&1 == 1 }

// set sets [lo,hi) and returns the bitmap and how many bits were not set before.
func (b bitmap) set(lo, hi int64) (bitmap, int64) {
	for int64(len(b)) < (hi+63)>>6 {
		b = append(b, 0)
	}
	fresh := int64(0)
	for lo < hi {
		n := min(64-lo&63, hi-lo)
		mask := (^uint64(0) >> (64 - n)) << (lo & 63)
		w := &b[lo>>6]
		fresh += int64(bits.OnesCount64(mask &^ *w))
		*w |= mask
		lo += n
	}
	return b, fresh
}

// count returns how many bits of [lo,hi) are set.
func (b bitmap) count(lo, hi int64) (n int64) {
	for lo = b.one(lo, hi); lo < hi; lo = b.one(lo, hi) {
		to := min(hi, b.zero(lo))
		n += to - lo
		lo = to
	}
	return n
}

// zero returns the first bit from i on that is not set.
func (b bitmap) zero(i int64) int64 {
	for i>>6 < int64(len(b)) {
		if w := ^b[i>>6] >> (i & 63); w != 0 {
			return i + int64(bits.TrailingZeros64(w))
		}
		i = (i>>6 + 1) << 6
	}
	return i
}

// one returns the first bit in [i,n) that is set, or n.
func (b bitmap) one(i, n int64) int64 {
	for i < n && i>>6 < int64(len(b)) {
		if w := b[i>>6] >> (i & 63); w != 0 {
			return min(n, i+int64(bits.TrailingZeros64(w)))
		}
		i = (i>>6 + 1) << 6
	}
	return n
}

// ackState is what an ack slot holds: which records are final.
//
// Shape: behind the head, groups of (first record − end of the group before,
// number of records, kind, then for all final: nothing; for runs: lengths,
// pending and final by turns; for bits: a byte per 8 records). What no group
// names is final below the frontier and pending above it.
type ackState struct {
	id         uint64
	generation uint64
	frontier   int64 // all below it are final
	next       int64 // the number of the next record; never used again below it
}

const (
	groupAll  = 0
	groupRuns = 1
	groupBits = 2

	ackHead = prefixSize + 4*8 + 4 // then the groups' length is the head's
)

// begin makes room for a head; finish fills it in.
func (a *ackState) begin(dst []byte) []byte { return append(dst[:0], make([]byte, ackHead)...) }

// appendGroup appends the records [first,first+n), of which those in b are final.
func appendGroup(dst []byte, gap int64, n int64, b bitmap, all bool) []byte {
	dst = binary.AppendUvarint(dst, uint64(gap))
	dst = binary.AppendUvarint(dst, uint64(n))
	if all {
		return append(dst, groupAll)
	}
	at := len(dst)
	dst = append(dst, groupRuns)
	limit := int((n+7)/8) + 16
	for i := int64(0); i < n; {
		final := min(n, b.one(i, n))
		dst = binary.AppendUvarint(dst, uint64(final-i))
		pending := min(n, b.zero(final))
		dst = binary.AppendUvarint(dst, uint64(pending-final))
		if i = pending; len(dst)-at > limit {
			break
		}
	}
	if len(dst)-at <= limit {
		return dst
	}
	dst = append(dst[:at], groupBits)
	for i := int64(0); i < n; i += 8 {
		w := uint64(0)
		if i>>6 < int64(len(b)) {
			w = b[i>>6]
		}
		dst = append(dst, byte(w>>(i&63)))
	}
	return dst
}

// finish writes the head and the checksums.
func (a *ackState) finish(dst []byte) []byte {
	head := appendPrefix(dst[:0], ackMagic, len(dst))
	for _, v := range []uint64{a.id, a.generation, uint64(a.frontier), uint64(a.next)} {
		head = binary.LittleEndian.AppendUint64(head, v)
	}
	binary.LittleEndian.PutUint32(dst[ackHead-4:], 0)
	binary.LittleEndian.PutUint32(dst[ackHead-4:], sum(dst))
	return dst
}

// parse reads a slot and calls final for every run of final records that a
// group names, in order.
// Errors: errDamage; *VersionError. final may have been called before.
func (a *ackState) parse(p []byte, file string, final func(lo, hi int64)) error {
	n, err := parsePrefix(p, ackMagic, file)
	if err != nil {
		return err
	}
	if n < ackHead || n > len(p) {
		return errDamage
	}
	p = p[:n]
	want := binary.LittleEndian.Uint32(p[ackHead-4:])
	binary.LittleEndian.PutUint32(p[ackHead-4:], 0)
	got := sum(p)
	binary.LittleEndian.PutUint32(p[ackHead-4:], want)
	if got != want {
		return errDamage
	}
	le := binary.LittleEndian
	a.id, a.generation = le.Uint64(p[prefixSize:]), le.Uint64(p[prefixSize+8:])
	a.frontier, a.next = int64(le.Uint64(p[prefixSize+16:])), int64(le.Uint64(p[prefixSize+24:]))
	if a.frontier < 1 || a.next < a.frontier {
		return errDamage
	}
	return a.groups(p[ackHead:], final)
}

func (a *ackState) groups(p []byte, final func(lo, hi int64)) error {
	at, ok := int64(1), true
	for len(p) > 0 {
		var gap, n uint64
		gap, p = uvarint(p, &ok)
		n, p = uvarint(p, &ok)
		if !ok || len(p) == 0 || gap > uint64(a.next-at) || n > uint64(a.next-at)-gap {
			return errDamage
		}
		at += int64(gap)
		kind := p[0]
		p = p[1:]
		end := at + int64(n)
		switch kind {
		case groupAll:
			if n > 0 {
				final(at, end)
			}
		case groupRuns:
			for at < end {
				var pending, done uint64
				pending, p = uvarint(p, &ok)
				done, p = uvarint(p, &ok)
				if !ok || pending+done == 0 || pending > uint64(end-at) || done > uint64(end-at)-pending {
					return errDamage
				}
				at += int64(pending)
				if done > 0 {
					final(at, at+int64(done))
				}
				at += int64(done)
			}
		case groupBits:
			if uint64(len(p)) < (n+7)/8 {
				return errDamage
			}
			for i := int64(0); i < int64(n); i++ {
				if p[i>>3]>>(i&7)&1 == 1 {
					final(at+i, at+i+1)
				}
			}
			p = p[(n+7)/8:]
		default:
			return errDamage
		}
		at = end
	}
	return nil
}
