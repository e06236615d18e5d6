package record

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// maxMillis is the last millisecond of the year 9999: an ISO-8601 instant
// beyond it needs a sign and five digits, which the server need not take.
const maxMillis = 253402300799999

// TimeFormat says how a moment is written in a field.
type TimeFormat uint8

// The formats. TimeAuto takes RFC 3339 and numbers in any of the units, told
// apart by magnitude.
const (
	TimeAuto TimeFormat = iota
	TimeRFC3339
	TimeUnix
	TimeUnixMillis
	TimeUnixMicros
	TimeUnixNanos
)

var timeFormats = [...]string{
	TimeAuto: "auto", TimeRFC3339: "rfc3339", TimeUnix: "unix",
	TimeUnixMillis: "unix_ms", TimeUnixMicros: "unix_us", TimeUnixNanos: "unix_ns",
}

// ParseTimeFormat reads auto, rfc3339, unix (seconds), unix_ms, unix_us or
// unix_ns.
func ParseTimeFormat(s string) (TimeFormat, error) {
	for f, name := range timeFormats {
		if s == name {
			return TimeFormat(f), nil
		}
	}
	return TimeAuto, fmt.Errorf("time format %q: must be one of %s", s, strings.Join(timeFormats[:], ", "))
}

// String returns the name ParseTimeFormat reads.
func (f TimeFormat) String() string {
	if int(f) < len(timeFormats) {
		return timeFormats[f]
	}
	return "format(" + strconv.Itoa(int(f)) + ")"
}

// wanted says what a field should hold.
func (f TimeFormat) wanted() string {
	switch f {
	case TimeRFC3339:
		return "RFC 3339 with an offset, like 2006-01-02T15:04:05Z"
	case TimeUnix:
		return "seconds since 1970"
	case TimeUnixMillis:
		return "milliseconds since 1970"
	case TimeUnixMicros:
		return "microseconds since 1970"
	case TimeUnixNanos:
		return "nanoseconds since 1970"
	}
	return "RFC 3339 with an offset, or epoch s, ms, µs or ns"
}

// parseTimestamp reads a raw JSON value as a moment: an RFC 3339 string, or an
// epoch number, also as a string, in the unit of the format or by its magnitude.
//
// Units: milliseconds since 1970, cut off below. Moments before 1970 or after
// 9999 are refused: Kafka takes no negative timestamp.
func parseTimestamp(raw []byte, f TimeFormat) (millis int64, ok bool) {
	if len(raw) >= 2 && raw[0] == '"' {
		raw = raw[1 : len(raw)-1]
		if f <= TimeRFC3339 {
			if millis, ok = parseRFC3339(raw); ok {
				return millis, true
			}
		}
		if end, number := scanNumberAll(raw); !number || end != len(raw) {
			return 0, false
		}
	} else if len(raw) == 0 || raw[0]-'0' >= 10 {
		return 0, false
	}
	if f == TimeRFC3339 {
		return 0, false
	}
	return parseEpoch(raw, f)
}

func scanNumberAll(b []byte) (int, bool) {
	if len(b) == 0 {
		return 0, false
	}
	return scanNumber(b, 0)
}

// Epoch numbers are told apart by magnitude: as seconds 1e11 is the year 5138,
// as milliseconds 1973; the same gap separates the other units.
const (
	epochMillisFrom = 1e11
	epochMicrosFrom = 1e14
	epochNanosFrom  = 1e17
)

// unitOf returns the unit of a number of that magnitude.
func unitOf[N int64 | float64](f TimeFormat, n N) TimeFormat {
	switch {
	case f != TimeAuto:
		return f
	case n < epochMillisFrom:
		return TimeUnix
	case n < epochMicrosFrom:
		return TimeUnixMillis
	case n < epochNanosFrom:
		return TimeUnixMicros
	}
	return TimeUnixNanos
}

// parseEpoch reads a JSON number, not negative.
func parseEpoch(b []byte, f TimeFormat) (millis int64, ok bool) {
	if bytes.IndexByte(b, 'e') >= 0 || bytes.IndexByte(b, 'E') >= 0 {
		return parseEpochFloat(b, f)
	}
	var whole int64
	i := 0
	for ; i < len(b) && b[i] != '.'; i++ {
		if i == 19 || b[i]-'0' >= 10 { // 19 digits are nanoseconds up to 2286
			return 0, false
		}
		whole = whole*10 + int64(b[i]-'0')
		if whole < 0 {
			return 0, false
		}
	}
	switch unitOf(f, whole) {
	case TimeUnix:
		if whole > maxMillis/1000 {
			return 0, false
		}
		whole *= 1000
		for unit := int64(100); unit > 0; unit /= 10 {
			if i++; i >= len(b) {
				break
			}
			whole += int64(b[i]-'0') * unit
		}
	case TimeUnixMicros:
		whole /= 1000
	case TimeUnixNanos:
		whole /= 1000000
	}
	return whole, whole <= maxMillis
}

// parseEpochFloat reads a number with an exponent.
func parseEpochFloat(b []byte, format TimeFormat) (millis int64, ok bool) {
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil || f < 0 {
		return 0, false
	}
	switch unitOf(format, f) {
	case TimeUnix:
		f *= 1000
	case TimeUnixMicros:
		f /= 1000
	case TimeUnixNanos:
		f /= 1000000
	}
	return int64(f), f <= maxMillis
}

// parseRFC3339 reads 2006-01-02T15:04:05[.fraction](Z|±07:00). A space or a
// small t for the T, a comma for the point and an offset without its colon are
// taken too; a time without an offset is not: it could mean anything.
//
// time.Time.UnmarshalText allocates for offsets of half hours and takes none
// of those forms.
func parseRFC3339(b []byte) (millis int64, ok bool) {
	const layout = "2006-01-02T15:04:05"
	if len(b) < len(layout)+1 || b[4] != '-' || b[7] != '-' || b[13] != ':' || b[16] != ':' ||
		b[10]|0x20 != 't' && b[10] != ' ' {
		return 0, false
	}
	var bad bool
	num := func(from, to int) int64 {
		var n int64
		for _, c := range b[from:to] {
			if c-'0' >= 10 {
				bad = true
			}
			n = n*10 + int64(c-'0')
		}
		return n
	}
	year, month, day := num(0, 4), num(5, 7), num(8, 10)
	hour, minute, second := num(11, 13), num(14, 16), num(17, 19)
	if bad || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) ||
		hour > 23 || minute > 59 || second > 60 {
		return 0, false
	}
	i := len(layout)
	var fraction int64
	if b[i] == '.' || b[i] == ',' {
		end := skipDigits(b, i+1)
		if end == i+1 || end == len(b) {
			return 0, false
		}
		for unit := int64(100); unit > 0; unit /= 10 {
			if i++; i < end {
				fraction += int64(b[i]-'0') * unit
			}
		}
		i = end
	}
	offset, ok := parseOffset(b[i:])
	if !ok {
		return 0, false
	}
	minutes := (daysFromCivil(year, month, day)*24+hour)*60 + minute - offset
	millis = (minutes*60+second)*1000 + fraction
	return millis, millis >= 0 && millis <= maxMillis
}

// parseOffset reads Z, ±hh:mm or ±hhmm, in minutes east of UTC.
func parseOffset(b []byte) (minutes int64, ok bool) {
	if len(b) == 1 {
		return 0, b[0]|0x20 == 'z'
	}
	if len(b) == 6 && b[3] == ':' {
		minutes = int64(b[4]-'0')*10 + int64(b[5]-'0')
		ok = b[4]-'0' < 6 && b[5]-'0' < 10
	} else if len(b) == 5 {
		minutes = int64(b[3]-'0')*10 + int64(b[4]-'0')
		ok = b[3]-'0' < 6 && b[4]-'0' < 10
	}
	if !ok || b[1]-'0' >= 10 || b[2]-'0' >= 10 {
		return 0, false
	}
	hours := int64(b[1]-'0')*10 + int64(b[2]-'0')
	minutes += hours * 60
	if b[0] == '-' {
		minutes = -minutes
	}
	return minutes, hours < 24 && (b[0] == '+' || b[0] == '-')
}

func daysIn(year, month int64) int64 {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// daysFromCivil counts days since 1970-01-01 in the Gregorian calendar, with
// years that begin in March so that the leap day is the last.
func daysFromCivil(year, month, day int64) int64 {
	if month <= 2 {
		year--
		month += 12
	}
	return 365*year + year/4 - year/100 + year/400 + (153*(month-3)+2)/5 + day - 719469
}

// appendTimestamp appends millis as 2006-01-02T15:04:05.000Z. A bare number on
// the wire would be taken as seconds.
//
// Source: Jackson InstantDeserializer, READ_DATE_TIMESTAMPS_AS_NANOSECONDS.
func appendTimestamp(dst []byte, millis int64) []byte {
	days, rest := millis/86400000, int(millis%86400000)
	// The inverse of daysFromCivil: eras of 400 years, years from March.
	z := days + 719468
	era := z / 146097
	doe := z - era*146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	day, month, year := int(doy-(153*mp+2)/5+1), int(mp+3), int(yoe+era*400)
	if month > 12 {
		month -= 12
		year++
	}
	dst = append2(append2(dst, year/100), year%100)
	dst = append2(append(dst, '-'), month)
	dst = append2(append(dst, '-'), day)
	dst = append2(append(dst, 'T'), rest/3600000)
	dst = append2(append(dst, ':'), rest/60000%60)
	dst = append2(append(dst, ':'), rest/1000%60)
	rest %= 1000
	return append(dst, '.', byte('0'+rest/100), byte('0'+rest/10%10), byte('0'+rest%10), 'Z')
}

func append2(dst []byte, n int) []byte {
	return append(dst, byte('0'+n/10), byte('0'+n%10))
}
