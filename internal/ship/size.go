package ship

import (
	"fmt"
	"strconv"
	"strings"
)

// Size is a number of bytes as users write it: 8000000, 8MB or 7.5MiB. KB, MB
// and GB are powers of ten, KiB, MiB and GiB of two.
type Size int64

var units = []struct {
	suffix string
	bytes  float64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"B", 1},
}

// Set reads text; it is the flag's setter.
func (s *Size) Set(text string) error {
	number, unit := strings.TrimSpace(text), 1.0
	for _, u := range units {
		if n, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = strings.TrimSpace(n), u.bytes
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n >= 0 && n*unit <= 1<<40) { // NaN is neither
		return fmt.Errorf("%q is not a size: write bytes, or a number with KB, MB, GB, KiB, MiB or GiB", text)
	}
	*s = Size(n * unit)
	return nil
}

// String writes the size in the largest unit of ten that fits it exactly.
func (s *Size) String() string {
	for _, u := range []struct {
		suffix string
		bytes  Size
	}{{"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}} {
		if *s >= u.bytes && *s%u.bytes == 0 {
			return strconv.FormatInt(int64(*s/u.bytes), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(*s), 10)
}

// Type names the kind of value in help texts.
func (*Size) Type() string { return "size" }
