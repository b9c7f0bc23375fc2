#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "io/chat/value.h"

/// The tree of a parsed template; constant after parsing, so that one template may be rendered by
/// many threads.
namespace qshard::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
    enum class Type {
        kConstant,   // constant
        kName,       // name
        kList,       // operands
        kTuple,      // operands
        kDict,       // operands: key, value, key, value...
        kAttribute,  // operands[0].name
        kItem,       // operands[0][operands[1]]
        kSlice,  // operands[0][operands[1] : operands[2] : operands[3]], the last three may be null
        kCall,   // operands[0](operands[1..], keywords)
        kFilter,   // operands[0] | name(operands[1..], keywords); operands[0] is null in a block's
                   // filter
        kTest,     // operands[0] is name(operands[1..], keywords)
        kUnary,    // name operands[0]: - + not
        kBinary,   // operands[0] name operands[1]: + - * / // % **
        kConcat,   // operands joined by ~
        kCompare,  // operands[0] operators[0] operands[1] operators[1] ...
        kAnd,      // operands[0] and operands[1]
        kOr,       // operands[0] or operands[1]
        kIf,       // operands[1] if operands[0] else operands[2], which may be null
    };
    Type type = Type::kConstant;
    int line = 0;
    int height = 1;  ///< levels below and with this one
    std::string name;
    Value constant;
    std::vector<ExpressionPtr> operands;
    std::vector<std::pair<std::string, ExpressionPtr>> keywords;
    std::vector<std::string> operators;
    bool star_arguments = false;  ///< of a call: the last operand is *args
    bool star_keywords = false;   ///< of a call: the last keyword is **kwargs
};

/// What a `set` or a `for` writes to: one name, a namespace attribute, or several of them.
struct Target {
    std::string name;
    std::string attribute;        ///< not empty: name.attribute
    std::vector<Target> targets;  ///< not empty: unpacks a sequence
};

struct Statement;
using StatementPtr = std::unique_ptr<Statement>;
using Body = std::vector<StatementPtr>;

struct Statement {
    enum class Type {
        kData,        // text
        kPrint,       // value
        kIf,          // value, body, otherwise
        kFor,         // target, value, condition, body, otherwise
        kSet,         // target = value
        kSetBlock,    // target = body, through the filters of value if not null
        kMacro,       // text (name), parameters, defaults, body
        kCallBlock,   // value (a call), parameters, defaults, body
        kFilter,      // body through the filters of value
        kWith,        // names = expressions (parameters and defaults), body
        kGeneration,  // body
        kBreak,
        kContinue,
    };
    Type type = Type::kData;
    int line = 0;
    std::string text;
    Target target;
    ExpressionPtr value;
    ExpressionPtr condition;
    std::vector<std::string> parameters;
    std::vector<ExpressionPtr> defaults;  ///< as many as parameters; null where there is none
    Body body;
    Body otherwise;
};

}  // namespace qshard::jinja
