package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Secret is a text that prints as *** wherever it would be printed.
//
// The text lies behind a pointer: fmt calls no String method of what sits in
// an unexported field of somebody's struct, and would print a string there.
type Secret struct{ text *string }

// NewSecret returns text as a Secret.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{&text}
}

// Reveal returns the text; "" when there is none.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// String masks the secret; "" when there is none.
func (s Secret) String() string {
	if s.text == nil {
		return ""
	}
	return masked
}

// GoString masks likewise.
func (Secret) GoString() string { return "config.Secret{***}" }

// masked stands for a secret in what is printed.
const masked = "***"

// ProxyURL is env, none, or the URL of a proxy; it prints without the password.
type ProxyURL string

// String masks the password.
func (p ProxyURL) String() string { return maskProxy(string(p)) }

// GoString masks likewise.
func (p ProxyURL) GoString() string { return "config.ProxyURL(" + p.String() + ")" }

// Size is a number of bytes. In a file it is 8000000, 8MB or 7.5MiB: KB, MB,
// GB and TB are powers of ten, KiB, MiB, GiB and TiB of two.
type Size int64

var units = []struct {
	suffix string
	bytes  int64
}{
	{"TiB", 1 << 40},
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"KB", 1e3},
	{"B", 1},
}

// maxSize bounds every size: past it a number is a slip of the keyboard.
const maxSize = 1 << 50

// ParseSize reads text as a Size.
func ParseSize(text string) (Size, error) {
	number, unit := strings.TrimSpace(text), int64(1)
	for _, u := range units {
		if n, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = strings.TrimSpace(n), u.bytes
			break
		}
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil && n >= 0 && n <= maxSize/unit {
		return Size(n * unit), nil
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !(n >= 0 && n*float64(unit) <= maxSize) || strings.ContainsAny(number, "xX_") { // NaN is neither
		return 0, fmt.Errorf("%q is no size: write bytes, or a number with KB, MB, GB, KiB, MiB or GiB", clip(text))
	}
	return Size(math.Round(n * float64(unit))), nil
}

// String writes the size in a unit that gives it as a whole number, where that is
// not longer than the bytes.
func (s Size) String() string {
	best := strconv.FormatInt(int64(s), 10)
	if s == 0 {
		return best
	}
	for _, u := range units {
		if int64(s)%u.bytes != 0 || u.bytes == 1 {
			continue
		}
		if text := strconv.FormatInt(int64(s)/u.bytes, 10) + u.suffix; len(text) <= len(best) {
			best = text
		}
	}
	return best
}

// Percent is a share in hundredths. In a file it is 5% or 2.5%; the sign is
// never left out, for 5 and 0.05 would be anybody's guess.
type Percent float64

// ParsePercent reads text as a Percent of 0 to 100.
func ParsePercent(text string) (Percent, error) {
	number, ok := strings.CutSuffix(strings.TrimSpace(text), "%")
	if number = strings.TrimSpace(number); ok && number != "" && strings.Trim(number, "0123456789.") == "" {
		if p, err := strconv.ParseFloat(number, 64); err == nil && p <= 100 {
			return Percent(p), nil
		}
	}
	return 0, fmt.Errorf("%q is no percentage: write a number with %%, from 0%% to 100%%", clip(text))
}

// String writes it as it is read.
func (p Percent) String() string { return strconv.FormatFloat(float64(p), 'f', -1, 64) + "%" }

// Set implements pflag.Value.
func (p *Percent) Set(text string) (err error) {
	*p, err = ParsePercent(text)
	return err
}

// Type implements pflag.Value.
func (p *Percent) Type() string { return "percent" }

// parseDuration reads 200ms, 5s, 1h30m, 7d; a plain 0 needs no unit.
func parseDuration(text string) (time.Duration, error) {
	text = strings.TrimSpace(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil && n <= 36500 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err == nil {
		return d, nil
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return 0, fmt.Errorf("%q has no unit: write %[1]sms, %[1]ss, %[1]sm or %[1]sh", clip(text))
	}
	return 0, fmt.Errorf("%q is no duration: write a number with ms, s, m, h or d", clip(text))
}

// duration writes d as parseDuration reads it, without the zeros that
// time.Duration ends in.
func duration(d time.Duration) string {
	s := d.String()
	if t, ok := strings.CutSuffix(s, "m0s"); ok {
		s = t + "m"
	}
	if t, ok := strings.CutSuffix(s, "h0m"); ok {
		s = t + "h"
	}
	return s
}
