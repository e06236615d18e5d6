//go:build amd64 && !purego

#include "textflag.h"

// func escapeBlocks(dst, src *byte, n int) (read, written, high int)
//
// Per 16 bytes: find quotes, backslashes and controls by comparison. None:
// store as it is. Else spread each half by the shuffle its mask selects, with
// backslashes from the upper half of the shuffled register.
TEXT ·escapeBlocks(SB), NOSPLIT, $0-48
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ DI, R12              // dst at the start
	MOVQ SI, R13              // src at the start
	XORQ R9, R9               // high bits seen
	LEAQ ·escapeShuffle(SB), R10

	MOVQ       $0x2222222222222222, AX
	MOVQ       AX, X8
	PUNPCKLQDQ X8, X8         // quotes
	MOVQ       $0x5c5c5c5c5c5c5c5c, AX
	MOVQ       AX, X9
	PUNPCKLQDQ X9, X9         // backslashes
	MOVQ       $0x1f1f1f1f1f1f1f1f, AX
	MOVQ       AX, X10
	PUNPCKLQDQ X10, X10       // the last control

	SUBQ $16, CX
	JLT  done

loop:
	MOVOU    (SI), X0
	MOVOU    X0, X1
	PCMPEQB  X8, X1
	MOVOU    X0, X2
	PCMPEQB  X9, X2
	POR      X2, X1           // X1: takes a backslash
	MOVOU    X10, X3
	PMINUB   X0, X3
	PCMPEQB  X0, X3           // X3: controls, for min(x, 0x1f) == x
	PMOVMSKB X3, BX
	TESTL    BX, BX
	JNZ      done
	PMOVMSKB X0, R8
	ORQ      R8, R9
	PMOVMSKB X1, AX
	TESTL    AX, AX
	JNZ      spread
	MOVOU    X0, (DI)
	ADDQ     $16, DI
	ADDQ     $16, SI
	SUBQ     $16, CX
	JGE      loop
	JMP      done

spread:
	MOVBLZX    AX, BX         // mask of the lower half
	SHRL       $8, AX         // of the upper half
	POPCNTL    BX, R8
	POPCNTL    AX, R11
	SHLQ       $4, BX
	SHLQ       $4, AX
	MOVOU      X0, X4
	PUNPCKLQDQ X9, X4         // lower half, then backslashes
	MOVOU      (R10)(BX*1), X5
	PSHUFB     X5, X4
	MOVOU      X4, (DI)
	LEAQ       8(DI)(R8*1), DI
	PUNPCKHQDQ X9, X0         // upper half, then backslashes
	MOVOU      (R10)(AX*1), X6
	PSHUFB     X6, X0
	MOVOU      X0, (DI)
	LEAQ       8(DI)(R11*1), DI
	ADDQ       $16, SI
	SUBQ       $16, CX
	JGE        loop

done:
	SUBQ R13, SI
	MOVQ SI, read+24(FP)
	SUBQ R12, DI
	MOVQ DI, written+32(FP)
	MOVQ R9, high+40(FP)
	RET
